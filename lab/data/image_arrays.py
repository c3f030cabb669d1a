"""Images with labels as whole arrays: what every reader of image files gives, and how it is checked.

N images of H x W pixels and C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lab.data.pictures import Reading, fitted_array
from lab.data.targets import Labelled, TargetKind, read_targets
from lab.data.targets.arrays import Array
from lab.errors import UserError

Pair = tuple[Array, Array]
"""images and their labels"""


class ImageArrays(NamedTuple):
    """Whole splits as arrays: images (N, H, W) or (N, H, W, C), uint8 of `levels` values, and labels (N, ...). In the
    place of images, the files (N,) that they are to be read from.

    Without a validation split one is drawn from the training split. `label_names` are those of the classes, or of
    several labels or values.
    """

    train: Pair
    test: Pair
    val: Pair | None = None
    levels: int = 256
    label_names: tuple[str, ...] = ()

    def fitted(self, reading: Reading) -> ImageArrays:
        """With all images of the size and channels that are asked for."""

        def each(pair: Pair) -> Pair:
            x = pair[0]
            channels = x.shape[3] if x.ndim == 4 else 1
            if x.ndim not in (3, 4) or x.dtype != np.uint8 or channels not in (1, 3) or not len(x):
                return pair  # which `checked` refuses
            if (reading.size or x.shape[1:3]) == x.shape[1:3] and (reading.channels or channels) == channels:
                return pair
            return np.stack([fitted_array(image, reading) for image in x]), pair[1]

        return self._replace(
            train=each(self.train), test=each(self.test), val=None if self.val is None else each(self.val)
        )


def checked(arrays: ImageArrays, name: str, kind: TargetKind = "auto") -> tuple[ImageArrays, Labelled]:
    """The arrays with images (N, H, W, C), or their files (N,), and labels as the target's batches hold them, and the
    target.

    Raises UserError for images or labels of another kind, and for splits that do not fit one another.
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
    raw = {split: np.asarray(pair[1]) for split, pair in pairs.items()}
    for split, y in raw.items():
        if len(images[split]) != len(y):
            raise UserError(f"the {split} split of {name!r} has {len(images[split])} images and {len(y)} labels.")
    labels, target = read_targets(raw, name, kind, arrays.label_names)
    whole = {split: (images[split], labels[split]) for split in pairs}
    return arrays._replace(train=whole["train"], test=whole["test"], val=whole.get("validation")), target


def _images(x: Array, split: str, name: str) -> Array:
    if x.dtype.kind == "U":
        return x
    channels_first = x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3)
    if x.ndim not in (3, 4) or x.dtype != np.uint8 or not x.size or channels_first:
        raise UserError(
            f"the {split} split of {name!r} holds {x.dtype} of shape {x.shape}; "
            f"it needs uint8 images (N, height, width) or (N, height, width, channels)."
        )
    return x if x.ndim == 4 else x[..., None]
