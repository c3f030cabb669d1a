"""Rings: the last C of all items that were ever appended, each numbered since the beginning.

On the CPU numpy moves the data: small pieces cost it a fifth of what they cost torch, and it copies a row at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Ring:
    """Item i lies in slot i % C; `num_written` items were appended so far. `data` is (C, *item_shape).

    `capacity` is the number of items kept.
    """

    def __init__(self, data: Tensor) -> None:
        self.data, self.capacity = data, len(data)
        self.num_written = 0
        self._on_cpu = data.device.type == "cpu"
        self._target: Any = data.numpy() if self._on_cpu else data

    @property
    def oldest(self) -> int:
        """The number of the oldest item kept."""
        return max(0, self.num_written - self.capacity)

    def append(self, items: Tensor) -> None:
        """Write items (T, *item_shape) after the last one."""
        self.write(self.num_written, items)

    def write(self, first: int, items: Tensor) -> None:
        """Write items (T, *item_shape), T at most C, numbered from `first`; appending goes on after them."""
        source: Any = items.numpy() if self._on_cpu else items
        start, length = first % self.capacity, len(source)
        before_end = self.capacity - start
        if length <= before_end:
            self._target[start : start + length] = source
        else:
            self._target[start:] = source[:before_end]
            self._target[: length - before_end] = source[before_end:]
        self.num_written = first + length

    def read(self, first: int, last: int) -> Tensor:
        """The items [first, last), (last - first, *item_shape)."""
        start, end = first % self.capacity, first % self.capacity + last - first
        if end <= self.capacity:
            return self.data[start:end]
        return torch.cat([self.data[start:], self.data[: end - self.capacity]])


def empty_ring(capacity: int, item_shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Ring:
    """A ring of its own memory, which it takes only as it fills."""
    return Ring(torch.empty(capacity, *item_shape, dtype=dtype, device=device))


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array that begins at a multiple of 64 bytes, as tensors do, so that no kernel can tell the two apart."""
    memory: np.ndarray[Any, Any] = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8).numpy()
    return memory.view(dtype).reshape(shape)


class Rows:
    """Rows (R, ...) that lie one after the other, to be drawn by indices of any shape."""

    def __init__(self, data: Tensor) -> None:
        self.data = data
        self._array: Any = data.numpy() if data.device.type == "cpu" else None

    def take(self, index: Tensor) -> Tensor:
        """The rows (*index.shape, ...) at these indices."""
        if self._array is None:
            return self.data.index_select(0, index.flatten()).unflatten(0, index.shape)
        taken = torch.empty(index.shape + self.data.shape[1:], dtype=self.data.dtype)
        self._array.take(index.numpy(), 0, taken.numpy(), "clip")  # any other mode copies once more
        return taken


class PackedRings:
    """Rings of equal length, items (N, *shape), from which rows are drawn: one environment's fields at one step.

    A row's number is slot * N + environment. On the CPU its fields lie side by side, so that drawing it reads one place
    in memory: with millions of rows that is what drawing costs.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        fields: dict[str, tuple[tuple[int, ...], torch.dtype]],
        device: torch.device,
    ) -> None:
        self._rows: np.ndarray[Any, Any] | None = None
        if device.type == "cpu":
            layout = [(name, torch.empty(0, dtype=kind).numpy().dtype, shape) for name, (shape, kind) in fields.items()]
            packed = np.empty((capacity, num_envs), np.dtype(layout, align=True))
            self._rows = packed.reshape(-1)
            self.rings = {name: Ring(torch.from_numpy(packed[name])) for name in fields}
        else:
            self.rings = {
                name: empty_ring(capacity, (num_envs, *shape), dtype, device) for name, (shape, dtype) in fields.items()
            }

    def take(self, index: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """The named fields (*index.shape, *shape) of rows at indices of any shape."""
        if self._rows is None:
            return {name: Rows(self.rings[name].data.flatten(0, 1)).take(index) for name in names}
        taken = self._rows.take(index.numpy(), mode="clip")
        return {name: torch.from_numpy(taken[name]) for name in names}
