"""Small data sets live on the device whole and are shuffled there: no worker processes, no copies.

The order of an epoch is a function of (seed, epoch) alone, so the number of samples drawn is the whole state. Several
ranks walk the same order together: what all of them draw at once is the minibatch that one process would draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from lab.data.module import LabDataModule
from lab.ranks import ranks
from lab.seeding import derive_seed


class Batch(NamedTuple):
    """Inputs (B, ...) and targets (B, ...)."""

    x: Tensor
    y: Tensor


def minibatches(samples: Batch, batch_size: int = 250) -> Iterator[Batch]:
    """Samples in minibatches, in order."""
    return map(Batch, samples.x.split(batch_size), samples.y.split(batch_size))


AnyBatch = TypeVar("AnyBatch")


class Chunk(Generic[AnyBatch]):
    """Several minibatches for one `training_step`."""

    def __init__(self, batches: Iterator[AnyBatch], num_batches: int) -> None:
        self._batches, self._num_batches = batches, num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[AnyBatch]:
        return self._batches


class ShuffledOrder:
    """Which samples come next: without replacement within an epoch, epochs shuffled afresh, batches always full.

    `batch_size` is this rank's; `drawn` counts the samples of all ranks.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int, device: torch.device) -> None:
        if num_samples < 1:
            raise ValueError("a data set needs at least one sample")
        self.num_samples, self.batch_size, self.seed, self.device = num_samples, batch_size, seed, device
        self.drawn = 0
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def next(self) -> Tensor:
        """Indices of this rank's next minibatch (B,)."""
        indices = self.next_of_all()
        return indices[ranks.shard(len(indices))]

    def next_of_all(self) -> Tensor:
        """Indices of the minibatches of all ranks (W B,)."""
        parts, wanted = [], self.batch_size * ranks.num_ranks()
        while wanted:
            epoch, start = divmod(self.drawn, self.num_samples)
            part = self._order_of(epoch)[start : start + wanted]
            parts.append(part)
            wanted -= len(part)
            self.drawn += len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def generator(self) -> torch.Generator:
        """A generator for noise on the next minibatch, a function of the seed and the position alone."""
        generator = torch.Generator(self.device)
        generator.manual_seed(derive_seed(self.seed, "noise", self.drawn))
        return generator

    def _order_of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            self._order = torch.randperm(self.num_samples, generator=generator).to(self.device)
            self._epoch = epoch
        return self._order


def evenly(total: int, num: int) -> Tensor:
    """At most `num` places among `total`, spread over them evenly."""
    num = min(num, total)
    return torch.arange(num) * total // max(1, num)


class ResidentModule(LabDataModule):
    """Splits of inputs and targets that live on the device. Subclasses set `_splits` and `order`."""

    _splits: dict[str, tuple[Tensor, Tensor]]
    order: ShuffledOrder

    def to(self, device: torch.device) -> None:
        super().to(device)
        self._splits = {name: (x.to(device), y.to(device)) for name, (x, y) in self._splits.items()}
        self.order.device = device

    def training_sample(self, num: int) -> Batch:
        x, y = self._splits["train"]
        index = evenly(len(y), min(num, len(self._splits["val"][1]))).to(y.device)
        return Batch(x[index], y[index])

    def fixed_tensors(self) -> Iterator[Tensor]:
        return (t for pair in self._splits.values() for t in pair)

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.order.drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.order.drawn = state_dict["drawn"]
