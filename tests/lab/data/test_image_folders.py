"""Folders as people have them: pictures of many sizes and modes, nested folders, labels in a CSV file beside them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lab.data.images import ImageData, ImageModule
from lab.data.targets import Classes, MultiLabel, RealValues
from lab.errors import UserError


def picture(path: Path, shape: tuple[int, ...], value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


@pytest.fixture
def sizes(tmp_path: Path) -> Path:
    """Two classes of pictures of four sizes, some in colour, some in folders of folders."""
    for name, value in (("dark", 30), ("light", 220)):
        for i in range(20):
            shape = ((8, 8), (12, 8), (8, 16, 3), (9, 7))[i % 4]
            picture(tmp_path / name / ("sub/deep" if i % 2 else ".") / f"{i:02}.png", shape, value)
    picture(tmp_path / "dark" / ".ipynb_checkpoints" / "00.png", (5, 5))
    return tmp_path


def build(**options: Any) -> ImageModule:
    return ImageData(batch_size=4, **options).build(0)


def test_pictures_of_several_sizes_say_how_to_make_them_alike(sizes: Path) -> None:
    with pytest.raises(UserError, match=r"differ in size .* data\.size=\[8,8\] makes them alike"):
        build(name=str(sizes))


@pytest.mark.parametrize("fit", ["resize", "crop", "pad"])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_pictures_of_any_size_come_to_one(sizes: Path, fit: Any, channels: Any) -> None:
    data = build(name=str(sizes), size=(10, 6), fit=fit, channels=channels, ground="black")
    assert isinstance(data.spec.inputs.shape, tuple)  # type: ignore[union-attr]
    assert data.spec.inputs.shape == (channels or 3, 10, 6)  # type: ignore[union-attr]
    assert sum(data.num_samples(split) for split in ("train", "val", "test")) == 40
    for batch in data.batches("train"):
        for x, y in zip(batch.x, batch.y, strict=True):
            value = (30, 220)[int(y)] / 255
            assert x[:, 5, 3].allclose(torch.tensor(value))  # the middle is never ground
            assert set(x.unique().tolist()) <= {torch.tensor(value).item(), *([0.0] if fit == "pad" else [])}


def test_what_is_cut_and_what_is_padded(tmp_path: Path) -> None:
    wide = np.zeros((4, 8), np.uint8)
    wide[:, 2:6] = 200
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(wide).save(tmp_path / split / name / f"{i}.png")
    (batch,) = build(name=str(tmp_path), size=(4, 4), fit="crop").batches("test")
    assert (batch.x * 255 == 200).all()
    (batch,) = build(name=str(tmp_path), size=(8, 8), fit="pad").batches("test")
    rows = (batch.x[0, 0] * 255).int().tolist()
    assert [row[0] for row in rows] == [255, 255, 0, 0, 0, 0, 255, 255]
    (batch,) = build(name=str(tmp_path), size=(4, 4), fit="resize").batches("test")
    assert (batch.x[0, 0, 0] * 255).int().tolist()[1:3] == [200, 200] or batch.x.max() * 255 <= 200


def test_arrays_are_brought_to_a_size_too(tmp_path: Path) -> None:
    x, y = np.full((40, 6, 5), 90, np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    data = build(name=str(tmp_path / "a.npz"), size=(8, 8), channels=3)
    assert data.spec.inputs.shape == (3, 8, 8)  # type: ignore[union-attr]
    assert next(iter(data.next_chunk())).x.unique().item() == pytest.approx(90 / 255)


@pytest.fixture
def attributes(tmp_path: Path) -> Path:
    lines = ["image,split,young,smiles,age,kind"]
    for i in range(30):
        picture(tmp_path / "images" / f"{i:02}.png", (6, 6), 8 * i)
        lines.append(f"images/{i:02}.png,{i % 3},{i % 2},{int(i > 14)},{i / 2},{'ab'[i % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("target", "kind", "expected"),
    [
        (("young", "smiles"), "auto", MultiLabel),
        (("young",), "multi_label", MultiLabel),
        (("age",), "auto", RealValues),
        (("age", "young"), "real", RealValues),
        (("kind",), "auto", Classes),
        (("young",), "auto", Classes),
    ],
)
def test_a_csv_says_what_pictures_are(attributes: Path, target: tuple[str, ...], kind: Any, expected: type) -> None:
    data = build(name=str(attributes), labels="labels.csv", target=target, target_kind=kind)
    assert isinstance(data.spec.target, expected)
    assert [data.num_samples(split) for split in ("train", "val", "test")] == [10, 10, 10]
    if expected is not Classes:
        assert data.spec.target.names == target
    for split in ("train", "val", "test"):
        (batch,) = data.batches(split)  # type: ignore[arg-type]
        numbers = (batch.x[:, 0, 0, 0] * 255 / 8).round().long()
        truth = {
            "young": numbers % 2,
            "smiles": (numbers > 14).long(),
            "age": numbers / 2,
            "kind": numbers % 2,
        }
        wanted = torch.stack([truth[name].float() for name in target], 1)
        assert torch.equal(batch.y.float().reshape(10, -1), wanted)


def test_without_a_column_split_a_tenth_is_for_testing(attributes: Path) -> None:
    text = (attributes / "labels.csv").read_text().replace(",split,", ",part,")
    (attributes / "labels.csv").write_text(text)
    data = build(name=str(attributes), labels=str(attributes / "labels.csv"), target=("kind",))
    assert [data.num_samples(split) for split in ("train", "val", "test")] == [24, 3, 3]


@pytest.mark.parametrize(
    ("change", "options", "part"),
    [
        (("images/03.png", "images/99.png"), {}, "line 5 of the labels: there is no image 'images/99.png'"),
        (("images/03.png", "images/02.png"), {}, "line 5 of the labels: image 'images/02.png' is that of line 4, too"),
        (("images/03.png", "images/../images/02.png"), {}, "02.png' is that of line 4, too"),
        (("images/03.png", "../../etc/passwd"), {}, "there is no image '../../etc/passwd'"),
        ((",a\n", ",\n"), {"target": ("kind",)}, "data.target='kind', line 2: '' is nothing that can be predicted"),
        ((",0,", ",7,"), {}, "split '7' is none of train, val, test"),
        ((",2,", ",0,"), {"target": ("age",)}, "has no row whose split is test"),
        (("", ""), {"target": ("agee",)}, "Did you mean 'age'"),
        (("", ""), {"labels": "other.csv"}, "data.labels='other.csv' is neither in"),
        (("", ""), {"labels": None}, "names columns of a CSV file, which data.labels gives"),
        (("", ""), {"target": ("kind", "age")}, "data.target='kind', line 2: 'a' is no number"),
    ],
)
def test_what_is_wrong_with_labels_is_one_sentence(
    attributes: Path, change: tuple[str, str], options: dict[str, Any], part: str
) -> None:
    file = attributes / "labels.csv"
    file.write_text(file.read_text().replace(*change) if change[0] else file.read_text())
    with pytest.raises(UserError) as error:
        build(**{"name": str(attributes), "labels": "labels.csv", "target": ("young",), **options})
    assert part in str(error.value)


def test_classes_that_a_split_lacks_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x, y = np.zeros((40, 6, 5), np.uint8), np.arange(40) % 4
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y % 3)
    with caplog.at_level(logging.WARNING, "lab"):
        build(name=str(tmp_path / "a.npz"), validation=0.1)
    assert "the test split of" in caplog.text
    assert "has no sample of the classes 3" in caplog.text
