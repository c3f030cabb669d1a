"""What models of images are trained on, be they images or codes. B batch, C channels, H rows, W columns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from lab.data.resident import Batch, Chunk, ResidentModule
from lab.long_work import told

Split = Literal["train", "val", "test"]


class ImageBatches(ResidentModule):
    """What models of images are trained on: x (B, C, H, W) float in [0, 1] of `levels` values, y (B, ...).

    Subclasses set `spec`, `order`, `levels`, `batches_per_step` and the splits.
    """

    levels: int
    batches_per_step: int

    def next_chunk(self) -> Chunk[Batch]:
        return Chunk(self._draw(), self.batches_per_step)

    @property
    @abstractmethod
    def image_module(self) -> Any:
        """The ImageModule of the images themselves: this one, or that of the images behind codes."""

    def to_images(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) of inputs x (N, ...): x itself, or the images behind codes."""
        return x

    def num_samples(self, split: Split) -> int:
        """How many images a split has."""
        return len(self._splits[split][0])

    def batches(self, split: Split, batch_size: int = 500) -> Iterator[Batch]:
        """A split in order, the same each time (dynamic binarization draws with a fixed seed)."""
        images, labels = self._splits[split]
        generator = torch.Generator(self.device).manual_seed(0)
        pairs = list(zip(images.split(batch_size), labels.split(batch_size), strict=True))
        for x, y in told(f"going through the {split} split", pairs):
            yield Batch(self._as_float(x, generator), y)

    def training_sample(self, num: int) -> Batch:
        x, y = super().training_sample(num)
        return Batch(self._as_float(x, torch.Generator(self.device).manual_seed(0)), y)

    def _draw(self) -> Iterator[Batch]:
        images, labels = self._splits["train"]
        for _ in range(self.batches_per_step):
            index = self.order.next()
            yield Batch(self._as_float(images[index], None), labels[index])

    def _as_float(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return x.float().div_(self.levels - 1)  # in place: half of the memory
