"""Images with labels as whole arrays: what every reader of image files gives."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class ImageArrays(NamedTuple):
    """Whole splits as arrays: images (N, H, W) or (N, H, W, C), uint8 of `levels` values, and labels (N,).

    Without a validation split one is cut from the end of the training split.
    """

    train: tuple[Array, Array]
    test: tuple[Array, Array]
    val: tuple[Array, Array] | None = None
    levels: int = 256
    class_names: tuple[str, ...] = ()
