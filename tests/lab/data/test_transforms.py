"""Transforms by hand and by the libraries that have them: what moves, what is mixed, and what a seed repeats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lab.backbones.features import FeatureSpec
from lab.data.images import ImageData
from lab.data.resident import Batch
from lab.data.targets import Classes
from lab.data.transforms import TransformConfig, transformed
from lab.supervised.tasks.classification import ClassificationConfig

ALL = {
    "flip": 0.5,
    "crop": 2,
    "scale": (0.8, 1.2),
    "rotate": 20.0,
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
    "cutout": 3,
    "noise": 0.1,
    "mixup": 0.4,
    "cutmix": 1.0,
}


def drawn(seed: int = 0, x: Any = None, y: Any = None, num_classes: int | None = 4, **options: Any) -> Batch:
    torch.manual_seed(0)
    x = torch.rand(64, 3, 8, 6) if x is None else x
    y = torch.arange(len(x)) % 4 if y is None else y
    return transformed(Batch(x, y), TransformConfig(**options), num_classes, torch.Generator().manual_seed(seed))


def originals() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(64, 3, 8, 6)


def test_nothing_is_done_where_nothing_is_asked_for() -> None:
    assert not TransformConfig().changes
    assert all(TransformConfig(**{name: value}).changes for name, value in ALL.items())
    assert torch.equal(drawn().x, originals())


def test_a_flip_is_a_mirror_image_of_its_share() -> None:
    x, out = originals(), drawn(flip=0.25).x
    flipped = [torch.equal(a, b.flip(2)) for a, b in zip(out, x, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(out, x, strict=True)]
    assert all(a != b for a, b in zip(flipped, same, strict=True))
    assert 4 < sum(flipped) < 28
    assert torch.equal(drawn(flip=1.0).x, x.flip(3))


def test_a_crop_is_a_part_of_the_padded_image() -> None:
    x, out = originals(), drawn(crop=2, fill=0.3).x
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), value=0.3)
    places = set()
    for a, b in zip(out, padded, strict=True):
        found = [(i, j) for i in range(5) for j in range(5) if torch.equal(a, b[:, i : i + 8, j : j + 6])]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 15


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 9)])
def test_a_quarter_turn_is_a_quarter_turn(shape: tuple[int, ...]) -> None:
    """With angles of 90 degrees alone, torch.rot90; with a factor of 2, the middle enlarged."""
    from lab.data import transforms

    x = torch.rand(2, *shape)
    still = torch.zeros(2, dtype=torch.int64)
    turn = torch.full((2,), np.pi / 2)
    out = transforms._resampled(x, still > 0, still, still, turn, torch.ones(2), 0.0)
    assert torch.allclose(out, x.rot90(1, (2, 3)), atol=1e-5) or torch.allclose(out, x.rot90(-1, (2, 3)), atol=1e-5)
    moved = transforms._resampled(x, still > 0, still + 1, still - 2, 0 * turn, torch.ones(2), 0.0)
    assert torch.allclose(moved[:, :, :-1, 2:], x[:, :, 1:, :-2], atol=1e-5)
    mirrored = transforms._resampled(x, still == 0, still, still, 0 * turn, torch.ones(2), 0.0)
    assert torch.allclose(mirrored, x.flip(3), atol=1e-5)


def test_a_turn_of_a_picture_that_is_no_square_keeps_its_proportions() -> None:
    from lab.data import transforms

    x = torch.zeros(1, 1, 21, 41)
    x[0, 0, 10, 12:29] = 1.0  # a level line through the middle
    still = torch.zeros(1, dtype=torch.int64)
    out = transforms._resampled(x, still > 0, still, still, torch.tensor([np.pi / 2]), torch.ones(1), 0.0)
    assert out[0, 0, 2:19, 20].min() > 0.99  # upright, and as long
    assert out.sum() == pytest.approx(17.0, abs=1e-2)


def test_colours_stay_between_0_and_1_and_keep_what_they_promise() -> None:
    x, out = originals(), drawn(brightness=0.5).x
    ratio = (out / x).flatten(1)
    inside = out.flatten(1) < 1
    for r, i in zip(ratio, inside, strict=True):
        assert r[i].std() < 1e-4
    assert 0.5 <= ratio[inside].min() < ratio[inside].max() <= 1.5
    contrasted = drawn(contrast=0.3).x
    torch.testing.assert_close(contrasted.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=0.02, rtol=0)
    grey = originals()[:, :1]
    assert torch.equal(drawn(x=grey, saturation=0.9).x, grey)
    everything = drawn(**ALL).x
    assert 0 <= everything.min() <= everything.max() <= 1


def test_a_cutout_is_a_square_of_zeros() -> None:
    out = drawn(x=torch.ones(200, 2, 8, 6), cutout=3).x
    holes = (out == 0).all(1).flatten(1).sum(1)
    assert holes.max() == 9
    assert holes.min() >= 4  # at an edge, at least what lies inside
    assert torch.equal(out[:, 0], out[:, 1])


def test_noise_is_gaussian_and_stays_within_the_range() -> None:
    grey = torch.full((64, 1, 20, 20), 0.5)
    noise = drawn(x=grey, noise=0.1).x - 0.5
    assert float(noise.mean()) == pytest.approx(0, abs=0.005)
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02)
    assert float((noise.abs() < 0.1).float().mean()) == pytest.approx(0.683, abs=0.01)
    black = drawn(x=torch.zeros(8, 1, 20, 20), noise=0.1).x
    assert float(black.min()) == 0.0
    assert float((black == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    config = ImageData(name="digits", batch_size=16, transforms=TransformConfig(noise=0.3))
    x = next(iter(config.build(0).next_chunk())).x * 16
    assert torch.equal(x, x.round())  # the levels that these images have


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_targets_are_mixed_as_their_images_are(kind: str) -> None:
    """Images that are their class in one-hot channels: the mean over pixels of each channel is the class's share."""
    y = torch.arange(64) % 4
    x = torch.nn.functional.one_hot(y, 4).float()[:, :, None, None].expand(-1, -1, 8, 6).contiguous()
    shares = set()
    for seed in range(20):
        out = drawn(seed, x, y, **{kind: 1.0})
        torch.testing.assert_close(out.x.mean((2, 3)), out.y, atol=1e-6, rtol=0)
        torch.testing.assert_close(out.y.sum(1), torch.ones(64))
        shares.add(round(float(out.y.max(1).values.min()), 3))
    assert len(shares) > 5
    values = torch.rand(64, 2)
    out = drawn(3, x, values, None, **{kind: 1.0})
    assert out.y.shape == (64, 2)
    torch.testing.assert_close(out.y.mean(0), values.mean(0))


def test_the_loss_of_shares_is_the_mean_of_the_losses() -> None:
    """Zhang et al. 2018: the loss of mixed targets is the same mixture of the losses of either target."""
    torch.manual_seed(0)
    logits, first, second = torch.randn(9, 3), torch.arange(9) % 3, (torch.arange(9) + 1) % 3
    for weights in (None, (1.0, 2.0, 0.5)):
        task = ClassificationConfig(class_weights=weights).build(Classes(3), FeatureSpec("vector", ((2,),)))
        shares = 0.3 * torch.nn.functional.one_hot(first, 3) + 0.7 * torch.nn.functional.one_hot(second, 3)
        whole = task.loss(logits, shares).value
        torch.testing.assert_close(whole, 0.3 * task.loss(logits, first)[0] + 0.7 * task.loss(logits, second)[0])
        hard = task.loss(logits, torch.nn.functional.one_hot(first, 3).float())
        torch.testing.assert_close(hard.value, task.loss(logits, first).value)
        assert hard.metrics["accuracy"] == task.loss(logits, first).metrics["accuracy"]


def test_the_seed_and_the_position_repeat_what_is_drawn() -> None:
    config = ImageData(name="digits", batch_size=16, batches_per_step=3, transforms=TransformConfig(**ALL))
    first, second, other = config.build(0), config.build(0), config.build(1)
    for data in (first, second):
        list(data.next_chunk())
    again = config.build(0)
    again.load_state_dict(first.state_dict())
    chunks = [list(data.next_chunk()) for data in (first, second, again, other)]
    for a, b, c in zip(*chunks[:3], strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, c.y)
        assert torch.equal(a.x, c.x)
    assert not torch.equal(chunks[0][0].x, chunks[3][0].x)
    (whole,) = ImageData(name="digits").build(0).batches("val", 500)
    (same,) = first.batches("val", 500)
    assert torch.equal(whole.x, same.x)  # nothing is changed but training images


INVALID = ({"flip": 1.5}, {"scale": (2, 1)}, {"scale": (0, 1)}, {"crop": -1}, {"mixup": -1}, {"noise": -1})


@pytest.mark.parametrize("options", INVALID)
def test_what_is_not_valid_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TransformConfig(**options)
