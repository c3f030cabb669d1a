"""What labels are taken for, and what is refused of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.data.images import ImageData
from lab.data.targets import Classes, MultiLabel, RealValues, read_targets
from lab.errors import UserError

RNG = np.random.default_rng(0)
BITS = RNG.integers(0, 2, (30, 3))
BITS[:2] = [[1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("y", "kind"),
    [
        (np.arange(30) % 4, Classes),
        (np.arange(30.0) % 4, Classes),
        (np.eye(3)[np.arange(30) % 3], Classes),
        (np.array(["a", "b"] * 15), Classes),
        (np.array([True, False] * 15), Classes),
        (BITS, MultiLabel),
        (BITS * 2.0 - 1, MultiLabel),
        (BITS.astype(bool), MultiLabel),
        (RNG.normal(size=30), RealValues),
        (RNG.normal(size=(30, 2)), RealValues),
        (np.round(RNG.normal(size=30), 1) * 1e100, RealValues),
        (RNG.normal(size=(30, 1)).astype(np.float16), RealValues),
    ],
)
def test_labels_say_what_they_are(y: Any, kind: type) -> None:
    rows, target = read_targets({"train": y, "test": y[:10]}, "data")
    assert isinstance(target, kind)
    assert [len(rows[split]) for split in ("train", "test")] == [30, 10]
    assert target.fitted(rows["train"]) != target


def test_a_kind_that_is_named_is_taken() -> None:
    ages = np.arange(30) % 7
    rows, target = read_targets({"train": ages}, "data", "real", ("age",))
    assert target.fitted(rows["train"]) == RealValues(("age",), (ages.mean(),), (ages.std(),))
    assert rows["train"].tolist() == [[age] for age in ages.tolist()]
    one_hot = np.eye(3)[np.arange(30) % 3]
    rows, target = read_targets({"train": one_hot}, "data", "multi_label")
    assert target.fitted(rows["train"]) == MultiLabel(("0", "1", "2"), (10, 10, 10))


def test_both_ways_to_write_labels_are_one() -> None:
    as_bits, as_signs = (read_targets({"train": y}, "data")[0]["train"] for y in (BITS, BITS * 2 - 1))
    assert (as_bits == as_signs).all()
    assert set(np.unique(as_bits)) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("labels", "kind", "part"),
    [
        ({"train": BITS + 1}, "auto", "labels of int64, shape (30, 3)"),
        ({"train": RNG.normal(size=30)}, "classes", "labels of float64"),
        ({"train": BITS, "test": BITS[:, :2]}, "multi_label", "the test split of 'data' has 2 labels a sample"),
        ({"train": BITS + 1}, "multi_label", "a row of 0 and 1 for each sample"),
        ({"train": np.array([1.0, np.nan])}, "real", "[nan] at sample 1: not finite"),
        ({"train": np.array([1.5, np.nan])}, "auto", "[nan] at sample 1: not finite"),
        ({"train": np.array(["1", "2"])}, "real", "numbers, one or a row of them"),
        ({"train": BITS * 0.5, "test": BITS[:, :1] * 0.5}, "real", "has 1 values a sample, the train split has 3"),
    ],
)
def test_what_does_not_fit_is_one_sentence(labels: dict[str, Any], kind: Any, part: str) -> None:
    with pytest.raises(UserError) as error:
        read_targets(labels, "data", kind)
    assert part in str(error.value)


def test_statistics_are_those_of_the_training_split(tmp_path: Path) -> None:
    x, y = RNG.integers(0, 256, (50, 4, 4), dtype=np.uint8), RNG.normal(size=(50, 2)) * 9
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    module = ImageData(name=str(tmp_path / "a.npz"), batch_size=5, validation=0.2).build(0)
    (batch,) = module.batches("train")
    assert isinstance(module.spec.target, RealValues)
    assert module.spec.target.mean == pytest.approx(batch.y.double().mean(0).tolist(), rel=1e-5)
    assert module.spec.target.scale == pytest.approx(batch.y.double().std(0, correction=0).tolist(), rel=1e-5)
    assert (module.num_samples("train"), module.num_samples("val")) == (40, 10)
