"""A ring: the last C of all items that were ever appended, each found by its number since the beginning."""

from __future__ import annotations

import torch
from torch import Tensor


class Ring:
    """Item i lies in slot i % C; `num_written` items were appended so far. `data` is (C, *item_shape)."""

    def __init__(self, capacity: int, item_shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.data = torch.empty(capacity, *item_shape, dtype=dtype, device=device)  # takes memory only as it fills
        self.num_written = 0

    @property
    def capacity(self) -> int:
        """Items kept."""
        return len(self.data)

    @property
    def oldest(self) -> int:
        """The number of the oldest item kept."""
        return max(0, self.num_written - self.capacity)

    def append(self, items: Tensor) -> None:
        """Write items (T, *item_shape) after the last one."""
        self.write(self.num_written, items)

    def write(self, first: int, items: Tensor) -> None:
        """Write items (T, *item_shape), T at most C, numbered from `first`; appending goes on after them."""
        start, before_end = first % self.capacity, min(len(items), self.capacity - first % self.capacity)
        self.data[start : start + before_end] = items[:before_end]
        if before_end < len(items):
            self.data[: len(items) - before_end] = items[before_end:]
        self.num_written = first + len(items)

    def read(self, first: int, last: int) -> Tensor:
        """The items [first, last), (last - first, *item_shape)."""
        start, end = first % self.capacity, first % self.capacity + last - first
        if end <= self.capacity:
            return self.data[start:end]
        return torch.cat([self.data[start:], self.data[: end - self.capacity]])

    def flat(self) -> Tensor:
        """(C * N, ...): a view of items (N, ...) one after the other."""
        return self.data.view(-1, *self.data.shape[2:])
