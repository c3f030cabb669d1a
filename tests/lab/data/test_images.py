"""Images as data: their splits, their order, what is done to their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lab.data.image_arrays import ImageArrays
from lab.data.images import ImageData, ImageModule, load_images
from lab.data.splits import held_out

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (40, 6, 5), dtype=np.uint8)
Y = (np.arange(40) % 4).astype(np.uint8)


@pytest.mark.slow
def test_digits_are_the_ones_scikit_learn_carries() -> None:
    from sklearn.datasets import load_digits

    arrays = load_images("digits")
    assert arrays.val is not None
    everything = np.concatenate([arrays.train[0], arrays.val[0], arrays.test[0]])
    assert everything.shape == (1797, 8, 8)
    assert sorted(row.tobytes() for row in everything) == sorted(
        row.tobytes() for row in load_digits().images.astype(np.uint8)
    )
    module = ImageData().build(seed=0)
    batch = next(module.batches("train", 2000))
    assert (float(batch.x.min()), float(batch.x.max())) == (0.0, 1.0)


def module_of(n: int = 50, **options: Any) -> ImageModule:
    x = np.arange(n, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    arrays = ImageArrays((x, np.arange(n) % 3), (x, np.arange(n) % 3), (x, np.arange(n) % 3))
    return ImageModule(ImageData(batch_size=8, batches_per_step=3, **options), arrays, seed=1)


def drawn(module: ImageModule, chunks: int) -> list[int]:
    return [round(float(v) * 255) for _ in range(chunks) for x, _ in module.next_chunk() for v in x[:, 0, 0, 0]]


def test_each_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    seen = drawn(module_of(48), 6)  # 144 images: three epochs
    epochs = [seen[i : i + 48] for i in (0, 48, 96)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(48))
    assert epochs[0] != epochs[1] != epochs[2]


def test_batches_stay_full_across_epochs_and_state_resumes_the_order() -> None:
    whole = drawn(module_of(50), 6)
    halved = module_of(50)
    first = drawn(halved, 2)
    again = module_of(50)
    again.load_state_dict(halved.state_dict())
    assert whole == first + drawn(again, 4)
    assert len(whole) == 6 * 3 * 8


def test_binarization() -> None:
    x = np.tile(np.linspace(0, 255, 16, dtype=np.uint8).reshape(1, 4, 4), (400, 1, 1))
    arrays = ImageArrays((x, np.zeros(400, int)), (x, np.zeros(400, int)))
    threshold = ImageModule(ImageData(batch_size=400, binarize="threshold"), arrays, 0)
    expected = (torch.from_numpy(x[:1, None]).float() / 255 > 0.5).float()
    assert torch.equal(next(iter(threshold.next_chunk())).x[:1], expected)
    dynamic = ImageModule(ImageData(batch_size=400, batches_per_step=2, binarize="dynamic"), arrays, 0)
    first, second = (batch.x for batch in dynamic.next_chunk())
    assert set(first.unique().tolist()) <= {0.0, 1.0}
    assert not torch.equal(first, second)
    torch.testing.assert_close(first.mean(0)[0], torch.from_numpy(x[0]).float() / 255, atol=0.1, rtol=0)
    evaluated = [next(dynamic.batches("test")).x for _ in range(2)]
    assert torch.equal(*evaluated)


def test_splits_and_limits() -> None:
    arrays = ImageArrays((X, Y), (X[:10], Y[:10]))
    module = ImageModule(ImageData(batch_size=4, validation=0.25), arrays, 0)
    assert [module.num_samples(split) for split in ("train", "val", "test")] == [30, 10, 10]
    assert sorted(next(module.batches("val")).y.bincount().tolist()) == [2, 2, 3, 3]
    assert ImageModule(ImageData(batch_size=4, num_train=7), arrays, 0).num_samples("train") == 7


@pytest.mark.parametrize("num", [1, 7, 100, 399])
def test_what_is_held_out_is_a_share_of_each_class(num: int) -> None:
    labels = np.repeat([0, 1, 2, 3], [200, 100, 60, 40])  # sorted, as folders are read
    rest, out = held_out(labels, num)
    assert sorted([*rest, *out]) == list(range(400))
    assert np.abs(np.bincount(labels[out], minlength=4) - num * np.array([0.5, 0.25, 0.15, 0.1])).max() <= 1
    again = held_out(labels, num)
    assert np.array_equal(out, again[1])
    assert num < 100 or not np.array_equal(out, np.linspace(out[0], out[-1], num).astype(int))  # within a class: drawn
