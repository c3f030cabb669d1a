"""Splits of sequences of many lengths that live on the device, and what a data module gives of them.

B batch, T the longest sequence of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from lab.data.language.ragged import LengthOrder, Ragged
from lab.data.language.vocabulary import PAD
from lab.data.module import LabDataModule
from lab.data.resident import Batch, Chunk, evenly
from lab.data.targets import NO_TAG, Sentence
from lab.errors import UserError
from lab.long_work import told

Split = Literal["train", "val", "test"]
Held = tuple[Ragged, Ragged | Tensor]
"""the sequences of a split, and what is to be predicted from them"""


class RaggedModule(LabDataModule):
    """Subclasses set `spec`, `batches_per_step`, `_splits` and `order`.

    x (B, T, ...) is filled with PAD; y as well where it is a sentence, with NO_TAG where it is a sequence of others.
    """

    batches_per_step: int
    """minibatches in one training step"""
    order: LengthOrder
    _splits: dict[str, Held]

    def to(self, device: torch.device) -> None:
        super().to(device)
        self._splits = {name: (x.to(device), y.to(device)) for name, (x, y) in self._splits.items()}

    def next_chunk(self) -> Chunk[Batch]:
        num = self.batches_per_step
        return Chunk((self._batch("train", self.order.next()) for _ in range(num)), num)

    def num_samples(self, split: Split) -> int:
        """How many sequences a split has."""
        return len(self._splits[split][0])

    def batches(self, split: Split, batch_size: int = 100) -> Iterator[Batch]:
        """A split in order."""
        numbers = list(torch.arange(self.num_samples(split)).split(batch_size))
        return (self._batch(split, index) for index in told(f"going through the {split} split", numbers))

    def training_sample(self, num: int) -> Batch:
        return self._batch("train", evenly(self.num_samples("train"), min(num, self.num_samples("val"))))

    def fixed_tensors(self) -> Iterator[Tensor]:
        for pair in self._splits.values():
            for held in pair:
                yield from (held.values, held.lengths) if isinstance(held, Ragged) else (held,)

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.order.drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.order.drawn = state_dict["drawn"]

    def _ordered(self, name: str, batch_size: int, seed: int) -> LengthOrder:
        """The order of the training split. Raises UserError where that is no minibatch."""
        lengths = self._splits["train"][0].lengths
        order = LengthOrder(lengths, batch_size, seed)
        if not order.num_batches:
            raise UserError(
                f"corpus {name!r} has {len(lengths):,} training samples, fewer than data.batch_size={batch_size}."
            )
        return order

    def _batch(self, split: Split, index: Tensor) -> Batch:
        index = index.to(self.device)
        x, y = self._splits[split]
        if not isinstance(y, Ragged):
            return Batch(x.padded(index, PAD), y[index])
        return Batch(x.padded(index, PAD), y.padded(index, PAD if isinstance(self.spec.target, Sentence) else NO_TAG))
