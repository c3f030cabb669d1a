"""Images as minibatches: in memory, or read from disk while a model trains. B batch, C channels, H rows, W columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lab.data.image_arrays import ImageArrays, Pair, checked
from lab.data.image_items import image_items
from lab.data.image_streams import PictureStream
from lab.data.items import Item
from lab.data.module import LabDataModule
from lab.data.resident import Batch, Chunk, ResidentModule, ShuffledOrder
from lab.data.spec import DataSpec, TensorSpec
from lab.data.splits import held_out, tell_absent
from lab.data.targets import Classes
from lab.data.targets.arrays import Array
from lab.data.transforms import transformed
from lab.errors import UserError
from lab.long_work import told
from lab.ranks import ranks

if TYPE_CHECKING:
    from lab.data.images import ImageData

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
    def image_module(self) -> ImageModule:
        """The data module of the images themselves: this one, or that of the images behind codes."""
        raise NotImplementedError

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

    def _draw(self) -> Iterator[Batch]:
        images, labels = self._splits["train"]
        for _ in range(self.batches_per_step):
            index = self.order.next()
            yield Batch(self._as_float(images[index], None), labels[index])

    def _as_float(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return x.float() / (self.levels - 1)


class ImageModule(ImageBatches):
    """x (B, C, H, W) float in [0, 1], y (B, ...) as the target says."""

    def __init__(self, config: ImageData, arrays: ImageArrays, seed: int) -> None:
        super().__init__()
        self.config, self.levels, self.batches_per_step = config, arrays.levels, config.batches_per_step
        arrays, target = checked(arrays, config.name, config.target_kind)
        splits = _divided(arrays, config)
        tell_absent(target, {split: y for split, (_, y) in splits.items()}, config.name)
        shape = self._hold(splits)
        levels = arrays.levels if config.binarize == "none" else 2
        target = target.fitted(splits["train"][1])
        self.spec = DataSpec(TensorSpec(shape, torch.float32, 0.0, 1.0, levels), target=target)
        self.order = ShuffledOrder(len(splits["train"][1]), config.batch_size, seed, self.device)

    def _hold(self, splits: dict[str, Pair]) -> tuple[int, ...]:
        """Keep the images and labels of each split; returns the shape (C, H, W) of an image."""
        self._splits = {split: _tensors(*pair) for split, pair in splits.items()}
        return tuple(self._splits["train"][0].shape[1:])

    @property
    def num_classes(self) -> int | None:
        """How many classes labels have; None for other targets."""
        return self.spec.target.num if isinstance(self.spec.target, Classes) else None

    @property
    def image_module(self) -> ImageModule:
        return self

    def items(self, sources: Sequence[str]) -> Iterator[Item]:
        """Pictures, brought to the size, channels and levels of these; what is binarized here is there cut at 0.5."""
        assert isinstance(self.spec.inputs, TensorSpec)
        steps = self.spec.inputs.levels - 1
        for name, x in image_items(sources, self.spec.inputs.shape, self.config.reading):
            yield Item(name, (x * steps).round() / steps)

    def _draw(self) -> Iterator[Batch]:
        images, labels = self._splits["train"]
        for _ in range(self.batches_per_step):
            generator = self.order.generator() if self._needs_noise else None
            index = self.order.next_of_all() if self._needs_noise else self.order.next()
            yield self._prepared(images[index], labels[index], generator)

    @property
    def _needs_noise(self) -> bool:
        """Whether something is drawn at random for the images of all ranks, so that it is as in one process."""
        return self.config.binarize == "dynamic" or self.config.transforms.changes

    def _prepared(self, images: Tensor, labels: Tensor, generator: torch.Generator | None) -> Batch:
        """This rank's minibatch: of images of its own, or, with a generator, of those of all ranks."""
        if generator is None:
            return Batch(self._as_float(images, None), labels)
        whole = self._transformed(Batch(self._as_float(images, generator), labels), generator)
        mine = ranks.shard(len(labels))
        return Batch(whole.x[mine], whole.y[mine])

    def _transformed(self, batch: Batch, generator: torch.Generator) -> Batch:
        """With what the config wants of it; pixels keep to the levels that they have, but where images are mixed."""
        transforms = self.config.transforms
        batch = transformed(batch, transforms, self.num_classes, generator)
        steps = self.spec.inputs.levels - 1  # type: ignore[union-attr]
        return batch if transforms.mixes else batch._replace(x=(batch.x * steps).round() / steps)

    def _as_float(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        x = super()._as_float(x, generator)
        if self.config.binarize == "threshold":
            return (x > 0.5).float()
        if self.config.binarize == "dynamic":
            return torch.bernoulli(x, generator=generator)
        return x


class StreamModule(ImageModule):
    """The same minibatches as of images in memory, read from disk while the model trains."""

    def _hold(self, splits: dict[str, Pair]) -> tuple[int, ...]:
        reading, processes = self.config.reading, self.config.stream_processes
        train = PictureStream(splits["train"][0], reading, processes)
        alike = reading._replace(channels=1 if train.shape[0] == 1 else 3)
        self._streams = {split: PictureStream(x, alike, processes) for split, (x, _) in splits.items()}
        self._labels = {split: torch.from_numpy(np.ascontiguousarray(y)) for split, (_, y) in splits.items()}
        self._reading: Iterator[Tensor] | None = None
        for split, stream in self._streams.items():
            if stream.shape != train.shape:
                raise UserError(
                    f"the {split} split of {self.config.name!r} holds pictures of {stream.shape[1:]} rows and "
                    f"columns, the train split of {train.shape[1:]}; data.size makes them alike."
                )
        return train.shape

    def to(self, device: torch.device) -> None:
        LabDataModule.to(self, device)
        self._labels = {split: y.to(device) for split, y in self._labels.items()}
        self.order.device = device

    def fixed_tensors(self) -> Iterator[Tensor]:
        """Labels and the sizes of files: what can be looked at without reading all."""
        for split, y in self._labels.items():
            yield y
            yield torch.from_numpy(self._streams[split].file_sizes())

    def num_samples(self, split: Split) -> int:
        return len(self._streams[split])

    def batches(self, split: Split, batch_size: int = 500) -> Iterator[Batch]:
        generator = torch.Generator(self.device).manual_seed(0)
        numbers = torch.arange(self.num_samples(split)).split(batch_size)
        read = self._streams[split].read([part.tolist() for part in numbers])
        labels = self._labels[split].split(batch_size)
        for y in told(f"going through the {split} split", labels):
            yield Batch(self._as_float(next(read).to(self.device), generator), y)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._reading = None

    def close(self) -> None:
        self._reading = None

    def _draw(self) -> Iterator[Batch]:
        if self._reading is None:
            self._reading = self._streams["train"].read(self._ahead())
        for _ in range(self.batches_per_step):
            images = next(self._reading).to(self.device, non_blocking=True)
            generator = self.order.generator() if self._needs_noise else None
            index = self.order.next_of_all() if self._needs_noise else self.order.next()
            yield self._prepared(images, self._labels["train"][index], generator)

    def _ahead(self) -> Iterator[list[int]]:
        """The numbers of all minibatches from here on: those that are read count only when they are learned from."""
        order = ShuffledOrder(self.order.num_samples, self.order.batch_size, self.order.seed, torch.device("cpu"))
        order.drawn = self.order.drawn
        while True:
            yield (order.next_of_all() if self._needs_noise else order.next()).tolist()


def _divided(arrays: ImageArrays, config: ImageData) -> dict[str, Pair]:
    """The three splits: where there is no validation split, it is drawn from the training split."""
    train, val = arrays.train, arrays.val
    if val is None:
        total = len(train[0])
        num = min(round(total * config.validation), total - 1)
        if not num:
            raise UserError(f"data.validation={config.validation} holds out none of the {total} images; it needs more.")
        rest, out = held_out(train[1], num)
        train, val = (train[0][rest], train[1][rest]), (train[0][out], train[1][out])
    if config.num_train is not None and config.num_train < len(train[0]):
        _, some = held_out(train[1], config.num_train)
        train = train[0][some], train[1][some]
    return {"train": train, "val": val, "test": arrays.test}


def _tensors(images: Array, labels: Array) -> tuple[Tensor, Tensor]:
    """(N, H, W, C) arrays -> (N, C, H, W) and (N,) tensors."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous()
    return x, torch.from_numpy(np.ascontiguousarray(labels))
