"""Pictures for predictions: files, folders, .npz of arrays, and one on standard input."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from lab.data import npz
from lab.data.image_folders import image_files
from lab.data.items import STDIN, Item, content
from lab.data.pictures import Reading, fitted_array, read_picture
from lab.data.targets.arrays import Array
from lab.errors import UserError

log = logging.getLogger("lab")

_ARRAYS = ("x", "images", "x_test", "test_images", "test")
"""arrays of an .npz that are taken, the first that is there"""


def image_items(sources: Sequence[str], shape: Sequence[int], reading: Reading) -> Iterator[Item]:
    """Images (C, H, W) float in [0, 1], of the shape that the net takes, whatever their size and mode are.

    Raises UserError that names the file.
    """
    reading = reading._replace(size=(shape[1], shape[2]), channels=1 if shape[0] == 1 else 3)
    for source in sources:
        path = Path(source)
        if source == STDIN:
            yield Item(source, _tensor(read_picture(io.BytesIO(content(source)), reading, "standard input")))
        elif path.is_dir():
            files = image_files(path)
            if not files:
                raise UserError(f"there are no images in {source!r}.")
            for file in files:
                yield Item(str(file), _tensor(read_picture(file, reading)))
        elif path.suffix.lower() == ".npz" and path.is_file():
            for i, image in enumerate(_images_of(path)):
                yield Item(f"{source}[{i}]", _tensor(fitted_array(image, reading)))
        elif path.is_file():
            yield Item(source, _tensor(read_picture(path, reading)))
        else:
            raise UserError(f"there is no file or folder {source!r}.")


def _images_of(path: Path) -> Array:
    arrays = npz.read_arrays(path)
    names = [name for name in _ARRAYS if name in arrays] or (list(arrays) if len(arrays) == 1 else [])
    if not names:
        raise UserError(f"{str(path)!r} holds {sorted(arrays)}; it needs one array, or one named {', '.join(_ARRAYS)}.")
    x = arrays[names[0]]
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3)) or not x.size:
        raise UserError(
            f"{names[0]} in {str(path)!r} is {x.dtype} of shape {x.shape}; it needs uint8 images (N, height, width) or "
            f"(N, height, width, channels)."
        )
    return x


def _tensor(image: Array) -> torch.Tensor:
    x = torch.from_numpy(np.array(image)).float() / 255
    return x[None] if x.dim() == 2 else x.permute(2, 0, 1).contiguous()
