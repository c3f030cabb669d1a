"""Scenes: what is said of them is what they show."""

from __future__ import annotations

import numpy as np
import pytest

from lab.data.scenes import Scenes, make_scenes, number_names

NAMES = number_names(10)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    """Of 'digits' that are frames as bright as their class, whose corners are ground."""
    pictures = np.zeros((10, 6, 5), np.uint8)
    pictures[:, 1:5, 1:4] = np.arange(10)[:, None, None] + 100
    return make_scenes(pictures, np.arange(10), NAMES, 300, 24, seed=0)


def test_pictures_lie_in_their_boxes_and_masks(scenes: Scenes) -> None:
    nums = (scenes.classes >= 0).sum(1)
    assert set(nums.tolist()) == {1, 2, 3}
    for image, classes, boxes, instances in zip(
        scenes.images, scenes.classes, scenes.boxes, scenes.instances, strict=True
    ):
        for k, (number, (left, top, right, bottom)) in enumerate(zip(classes, boxes, strict=True)):
            part = image[top:bottom, left:right]
            if number < 0:
                assert not part.size
                continue
            assert part.shape == (4, 3)
            assert (part == number + 100).all()
            assert ((instances == k + 1) == (_filled(image.shape, top, bottom, left, right))).all()
        assert ((image > 0) == (instances > 0)).all()


def test_semantic_masks_are_classes_of_pixels(scenes: Scenes) -> None:
    expected = np.where(scenes.images > 0, scenes.images.astype(int) - 99, 0)
    assert (scenes.semantics == expected).all()
    assert scenes.semantics.dtype == np.uint8


def test_captions_say_how_each_picture_lies_to_the_next(scenes: Scenes) -> None:
    for classes, boxes, caption in zip(scenes.classes, scenes.boxes, scenes.captions, strict=True):
        num = int((classes >= 0).sum())
        centres = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in boxes[:num]]
        assert centres == sorted(centres)
        words = [f"{'an' if NAMES[classes[0]][0] in 'ae' else 'a'} {NAMES[classes[0]]}"]
        for k in range(1, num):
            across, down = centres[k][0] - centres[k - 1][0], centres[k][1] - centres[k - 1][1]
            words += ["left of" if across > abs(down) else "above" if down > 0 else "below"]
            words += [f"{'an' if NAMES[classes[k]][0] in 'ae' else 'a'} {NAMES[classes[k]]}"]
        assert caption == " ".join(words)


def test_scenes_are_always_the_same() -> None:
    pictures = np.full((2, 4, 4), 9, np.uint8)
    one, same, other = (make_scenes(pictures, np.array([0, 1]), NAMES, 20, 16, seed) for seed in (1, 1, 2))
    assert (one.images == same.images).all()
    assert one.captions == same.captions != other.captions


def _filled(shape: tuple[int, ...], top: int, bottom: int, left: int, right: int) -> np.ndarray:  # type: ignore[type-arg]
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask
