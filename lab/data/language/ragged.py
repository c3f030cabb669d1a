"""Sequences of many lengths: kept one after the other, padded for a minibatch, drawn with others of like length.

N sequences, B of them in a minibatch, T their longest, M numbers in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lab.ranks import ranks
from lab.seeding import derive_seed

_POOL = 50
"""minibatches whose sequences are sorted by length, so that each holds alike ones"""


class Ragged:
    """N sequences of `width` numbers a step (0: of one) as one tensor (M, ...), each from where it begins."""

    def __init__(self, values: Tensor, lengths: Tensor) -> None:
        self.values, self.lengths = values, lengths
        self.starts = lengths.cumsum(0) - lengths

    @classmethod
    def of(cls, sequences: Iterable[Sequence[object]]) -> Ragged:
        """From lists of numbers, or of rows of numbers."""
        held = list(sequences)
        values = [torch.as_tensor(each) for each in held if len(each)]
        lengths = torch.tensor([len(each) for each in held], dtype=torch.int64)
        return cls(torch.cat(values) if values else torch.empty(0, dtype=torch.int64), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device) -> Ragged:
        return Ragged(self.values.to(device), self.lengths.to(device))

    def padded(self, index: Tensor, value: float = 0) -> Tensor:
        """Some of the sequences (B, T, ...), filled with a value after each one's end."""
        lengths = self.lengths[index]
        steps = torch.arange(int(lengths.max()) if len(lengths) else 0, device=index.device)
        inside = steps < lengths[:, None]  # (B, T)
        places = (self.starts[index][:, None] + steps).clamp(max=max(len(self.values) - 1, 0))
        mask = inside.view(*inside.shape, *(1,) * (self.values.dim() - 1))
        return torch.where(mask, self.values[places], torch.as_tensor(value, dtype=self.values.dtype))


class LengthOrder:
    """Which sequences come next: all of an epoch once, but for less than a minibatch of them, alike ones together.

    The order of an epoch is a function of (seed, epoch) alone, so the number of minibatches drawn is the whole state.
    `batch_size` is this rank's; all ranks draw from the same order.
    """

    def __init__(self, lengths: Tensor, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = lengths.cpu(), batch_size, seed
        self.drawn = 0
        self._epoch, self._batches = -1, torch.empty(0)

    @property
    def num_batches(self) -> int:
        """Minibatches of all ranks together in an epoch."""
        return len(self.lengths) // (self.batch_size * ranks.num_ranks())

    def next(self) -> Tensor:
        """Numbers of this rank's next sequences (B,)."""
        epoch, number = divmod(self.drawn, self.num_batches)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._arranged(epoch)
        self.drawn += 1
        batch = self._batches[number]
        return batch[ranks.shard(len(batch))]

    def _arranged(self, epoch: int) -> Tensor:
        """The minibatches (K, W B) of an epoch."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        size = self.batch_size * ranks.num_ranks()
        order = torch.randperm(len(self.lengths), generator=generator)[: self.num_batches * size]
        pools = [pool[self.lengths[pool].argsort(stable=True)] for pool in order.split(_POOL * size)]
        return torch.cat(pools).view(-1, size)[torch.randperm(self.num_batches, generator=generator)]
