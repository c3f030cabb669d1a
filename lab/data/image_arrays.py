"""Images with labels as whole arrays: what every reader of image files gives, how it is checked, and how it is divided.

N images of H x W pixels and C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lab.errors import UserError

Array = np.ndarray[Any, Any]
Pair = tuple[Array, Array]
"""images and their labels"""

_MAX_CLASSES = 10_000
"""that a data set of fewer images may count"""


class ImageArrays(NamedTuple):
    """Whole splits as arrays: images (N, H, W) or (N, H, W, C), uint8 of `levels` values, and labels (N,).

    Without a validation split one is drawn from the training split.
    """

    train: Pair
    test: Pair
    val: Pair | None = None
    levels: int = 256
    class_names: tuple[str, ...] = ()


def checked(arrays: ImageArrays, name: str) -> ImageArrays:
    """The arrays with images (N, H, W, C) and labels (N,) that are class numbers from 0 up.

    Labels may also be names, one-hot rows, a column, or whole numbers as floats.

    Raises UserError for images or labels that are neither, and for splits that do not fit one another.
    """
    splits = {"train": arrays.train, "test": arrays.test, "validation": arrays.val}
    pairs = {split: pair for split, pair in splits.items() if pair is not None}
    images = {split: _images(pair[0], split, name) for split, pair in pairs.items()}
    for split, x in images.items():
        if x.shape[1:] != images["train"].shape[1:]:
            raise UserError(
                f"the {split} split of {name!r} holds images of (height, width, channels) {x.shape[1:]}, "
                f"the train split of {images['train'].shape[1:]}; they need to be alike."
            )
    labels, names = _labels({split: np.asarray(pair[1]) for split, pair in pairs.items()}, name)
    for split, y in labels.items():
        if len(images[split]) != len(y):
            raise UserError(f"the {split} split of {name!r} has {len(images[split])} images and {len(y)} labels.")
    num_classes = max(int(labels["train"].max()) + 1, len(arrays.class_names))
    for split, y in labels.items():
        if int(y.max()) >= num_classes:
            raise UserError(
                f"the {split} split of {name!r} has the class {int(y.max())}; the train split has none above "
                f"{num_classes - 1}."
            )
    if num_classes > max(_MAX_CLASSES, len(images["train"])):
        raise UserError(
            f"the labels of {name!r} go up to {num_classes - 1:,}, for {len(images['train']):,} images; "
            f"they need to be class numbers from 0 up."
        )
    whole = {split: (images[split], labels[split]) for split in pairs}
    return arrays._replace(
        train=whole["train"], test=whole["test"], val=whole.get("validation"), class_names=arrays.class_names or names
    )


def held_out(labels: Array, num: int) -> tuple[Array, Array]:
    """Indices of all but `num` entries, and of those: drawn so that each class gives its share; the same every time."""
    shuffled = np.random.default_rng(0).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    chosen = np.zeros(len(labels), bool)
    chosen[by_class[((np.arange(num) + 0.5) * len(labels) / max(num, 1)).astype(np.int64)]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _images(x: Array, split: str, name: str) -> Array:
    channels_first = x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3)
    if x.ndim not in (3, 4) or x.dtype != np.uint8 or not x.size or channels_first:
        raise UserError(
            f"the {split} split of {name!r} holds {x.dtype} of shape {x.shape}; "
            f"it needs uint8 images (N, height, width) or (N, height, width, channels)."
        )
    return x if x.ndim == 4 else x[..., None]


def _labels(labels: Mapping[str, Array], name: str) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Class numbers (N,) int64 of each split, and the names of the classes where labels are names."""
    plain = {split: y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y for split, y in labels.items()}
    if all(y.ndim == 1 and y.dtype.kind in "US" for y in plain.values()):
        names = sorted({str(each) for each in plain["train"].astype(str)})
        numbers = {each: number for number, each in enumerate(names)}
        for split, y in plain.items():
            for each in y.astype(str):
                if each not in numbers:
                    raise UserError(
                        f"the {split} split of {name!r} has the class {str(each)!r}; the train split has none."
                    )
        return {
            split: np.asarray([numbers[each] for each in y.astype(str)], np.int64) for split, y in plain.items()
        }, tuple(names)
    return {split: _numbers(y, split, name) for split, y in plain.items()}, ()


def _numbers(y: Array, split: str, name: str) -> Array:
    if y.ndim == 2 and y.dtype.kind in "iufb" and ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all():
        return y.argmax(1)
    whole = y.ndim == 1 and (y.dtype.kind in "iu" or (y.dtype.kind == "f" and bool((y == np.floor(y)).all())))
    if not whole or (len(y) and not 0 <= y.min() <= y.max() < 2**62):
        raise UserError(
            f"the {split} split of {name!r} has labels of {y.dtype}, shape {y.shape}; "
            f"each image needs a class: a number from 0 up, a name, or a one-hot row."
        )
    return y.astype(np.int64)
