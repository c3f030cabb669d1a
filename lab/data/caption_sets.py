"""The sets of captioned images by name: scenes of the embedded digits, and of pictures below LAB_DATA."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lab.data.captions import Captioned, CaptionSplits, register_captions
from lab.data.image_arrays import ImageArrays, Pair
from lab.data.image_sets import digits, fashion_mnist, mnist
from lab.data.scenes import make_scenes, number_names

_SIZES = {"train": 20_000, "val": 1_000, "test": 2_000}
_HELD_OUT = 5_000
"""training pictures of MNIST and of what has its form of which validation scenes are made"""


@register_captions("scenes")
def scenes(root: Path) -> CaptionSplits:
    """One to three of the embedded digits on 32x32 pixels, told from left to right: `a three left of a seven`."""
    arrays = digits(root)
    assert arrays.val is not None
    return _scenes({"train": arrays.train, "val": arrays.val, "test": arrays.test}, number_names(10), 32)


@register_captions("scenes-mnist")
def scenes_mnist(root: Path) -> CaptionSplits:
    """One to three digits of MNIST on 84x84 pixels, told from left to right, from LAB_DATA."""
    return _scenes(_with_validation(mnist(root)), number_names(10), 84)


@register_captions("scenes-fashion")
def scenes_fashion(root: Path) -> CaptionSplits:
    """One to three articles of Fashion-MNIST on 84x84 pixels, told from left to right, from LAB_DATA."""
    arrays = fashion_mnist(root)
    return _scenes(_with_validation(arrays), arrays.label_names, 84)


def _with_validation(arrays: ImageArrays) -> dict[str, Pair]:
    x, y = arrays.train
    return {
        "train": (x[:-_HELD_OUT], y[:-_HELD_OUT]),
        "val": (x[-_HELD_OUT:], y[-_HELD_OUT:]),
        "test": arrays.test,
    }


def _scenes(splits: dict[str, Pair], names: tuple[str, ...], side: int) -> CaptionSplits:
    captioned = {}
    for seed, (split, num) in enumerate(_SIZES.items()):
        x, y = splits[split]
        bright = (x * (255 // int(np.max(x)))).astype(np.uint8)
        made = make_scenes(bright, np.asarray(y), names, num, side, seed)
        captioned[split] = Captioned(made.images, made.captions)
    return captioned
