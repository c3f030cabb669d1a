"""Pictures that are read from disk while a model trains, by processes of their own, in the order that is asked for.

What is in memory are the names of the files and a few minibatches. B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lab.data.pictures import Reading, read_picture
from lab.data.targets.arrays import Array
from lab.errors import UserError

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TRIM_BYTES = 2**25
"""pictures after which memory that is free goes back to the system"""
_AHEAD = 4
"""minibatches that each process has ready"""


class PictureStream:
    """Reads pictures by their numbers.

    Args:
        files: their paths (N,).
        reading: how they are read. Without a size they must be as large as the first, without channels all become grey
            or coloured as that is.
        processes: that read; 0 for the process that asks.
    """

    def __init__(self, files: Array, reading: Reading, processes: int) -> None:
        self.shape = _channels_first(read_picture(Path(str(files[0])), reading)).shape
        self._pictures = _Pictures(np.array([os.fsencode(str(file)) for file in files]), reading, self.shape)
        self.processes = processes

    def __len__(self) -> int:
        return len(self._pictures.files)

    def file_sizes(self) -> Array:
        """The bytes of each file (N,) int64."""
        return np.array([path.stat().st_size for path in map(_path, self._pictures.files)], np.int64)

    def read(self, batches: Iterable[list[int]]) -> Iterator[Tensor]:
        """Pictures (B, C, H, W) uint8 of each list of numbers, in order; some lists ahead of those that are taken.

        Raises UserError, which names the file, for one that cannot be read or is not like the others.
        """
        loader: DataLoader[Any] = DataLoader(
            self._pictures,
            batch_sampler=batches,
            num_workers=self.processes,
            prefetch_factor=_AHEAD if self.processes else None,
            collate_fn=_as_they_are,
            generator=torch.Generator(),  # of its own: it draws a seed, and training goes on as if it had not
            worker_init_fn=_end_with_the_trainer,
        )
        num_bytes = 0
        for images in loader:
            if isinstance(images, str):
                raise UserError(images)
            yield images
            num_bytes += images.nbytes
            if num_bytes > _TRIM_BYTES:
                num_bytes = 0
                _return_free_memory()


class _Pictures(Dataset[Any]):
    def __init__(self, files: Array, reading: Reading, shape: tuple[int, ...]) -> None:
        self.files, self.reading, self.shape = files, reading, shape
        if reading.channels is None:
            self.reading = reading._replace(channels=1 if shape[0] == 1 else 3)

    def __getitems__(self, numbers: Sequence[int]) -> Tensor | str:
        """Pictures (B, C, H, W), or what is wrong with one of them."""
        images = torch.empty(len(numbers), *self.shape, dtype=torch.uint8)
        for i, number in enumerate(numbers):
            path = _path(self.files[number])
            try:
                image = _channels_first(read_picture(path, self.reading))
            except UserError as error:
                return str(error)
            if image.shape != self.shape:
                rows, columns = self.shape[1:]
                return (
                    f"image {str(path)!r} has (rows, columns) {image.shape[1:]}, the first one {(rows, columns)}; "
                    f"data.size=[{rows},{columns}] makes them alike, by data.fit=resize, crop or pad."
                )
            images[i] = torch.from_numpy(np.ascontiguousarray(image))
        return images


def _path(file: bytes) -> Path:
    return Path(os.fsdecode(bytes(file)))


def _channels_first(image: Array) -> Array:
    return image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)


def _as_they_are(images: Any) -> Any:
    return images


def _return_free_memory() -> None:
    """The C library may keep what large tensors have left, and take more for the next ones: gigabytes, in the end."""
    if sys.platform == "linux" and hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


def _end_with_the_trainer(number: int) -> None:
    """Ctrl-C in a terminal reaches all processes: those that read go on until the run has saved itself. When the
    trainer dies, so do they, at once."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
