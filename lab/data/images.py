"""Images with labels: the embedded digits, files in the MNIST format, `.npz`, a folder of images, or a hub name.

`data.name` is a registered data set (`lab list`), or says where the images are:

- `digits`                  the 8x8 handwritten digits that scikit-learn carries; no file needed
- `mnist`, `fashion-mnist`  four IDX files (gzipped or not) in `<root>/<name>` or `<root>`
- `path/to/file.npz`        arrays x_train, y_train, x_test, y_test (or train, test, valid; bits may be packed)
- `path/to/folder`          IDX files, or one folder of images for each class
- `hub:NAME`                a Hugging Face data set with an image and a label column, when the network allows

`root` is `data.root`, else the environment variable LAB_DATA, else `./data`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from lab.data.datasets import DataSet, load_named, path_of
from lab.data.image_arrays import ImageArrays, Pair, checked
from lab.data.image_batches import ImageBatches, Split
from lab.data.image_files import read_hub
from lab.data.image_folders import class_folders, labelled_folder, loaded, read_path
from lab.data.image_items import image_items
from lab.data.image_streams import PictureStream
from lab.data.items import Item
from lab.data.module import LabDataModule
from lab.data.pictures import AS_THEY_ARE, Fit, Reading
from lab.data.resident import Batch, ShuffledOrder, evenly
from lab.data.spec import DataSpec, TensorSpec
from lab.data.splits import held_out, tell_absent
from lab.data.targets import Classes, TargetKind
from lab.data.targets.arrays import Array
from lab.data.transforms import TransformConfig, transformed
from lab.errors import UserError
from lab.experiment import DataConfig, Shared
from lab.long_work import told
from lab.ranks import ranks
from lab.registry import Registry

ImageSet = DataSet[ImageArrays]
IMAGES: Registry[ImageSet] = Registry("register_images", "data set", "datasets")


def register_images(name: str) -> Callable[[ImageSet], ImageSet]:
    """Register a function `root -> ImageArrays` as the data set `name`. Raises ValueError for a taken name."""
    return IMAGES.register(name)


class ImageData(DataConfig):
    """Images with labels, resident on the device or streamed from disk."""

    kind: Literal["images"] = "images"
    name: str = "digits"
    """a registered data set, a .npz file, a folder, or hub:NAME"""
    root: str | None = None
    """folder of data files; by default LAB_DATA, else ./data"""
    size: tuple[Annotated[int, Field(ge=1, le=8_192)], Annotated[int, Field(ge=1, le=8_192)]] | None = None
    """rows and columns that images are brought to; by default they stay as they are"""
    fit: Fit = "resize"
    """how: resize stretches, crop cuts what is beyond the middle, pad puts ground on two sides"""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colour; by default as the images are"""
    ground: Literal["white", "black"] = "white"
    """what is behind transparent parts of picture files, and beside padded ones"""
    labels: str | None = None
    """a CSV file in a folder of images, with a row for each: its file, and what it shows"""
    target: tuple[str, ...] = ()
    """columns of `labels` to be predicted; by default all but the file's and `split`"""
    target_kind: TargetKind = "auto"
    """what labels are: auto takes names and whole numbers for classes, rows of several 0 and 1 for multi_label, other
    numbers for real"""
    batch_size: Annotated[int, Shared("equal")] = Field(default=128, ge=1, le=65_536)
    batches_per_step: PositiveInt = 8
    """minibatches in one training step; more of them, less overhead"""
    binarize: Literal["none", "threshold", "dynamic"] = "none"
    """threshold: pixel > 0.5; dynamic: Bernoulli draws with the pixel as probability, anew for each minibatch"""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """share of the training split held out, of each class, where the data set has no validation split"""
    transforms: TransformConfig = TransformConfig()
    """random changes of training images"""
    stream: bool = False
    """read picture files from disk in each epoch anew, for folders that are larger than memory"""
    stream_processes: NonNegativeInt = 2
    """that read and decode them; 0 for the one that trains"""
    num_train: PositiveInt | None = None
    """use only so many training images, of each class its share"""

    @property
    def reading(self) -> Reading:
        """How pictures are read."""
        return Reading(self.size, self.fit, self.channels, self.ground)

    def build(self, seed: int) -> ImageModule:
        """Load the data. Raises UserError for a data set or file that is absent or damaged."""
        if self.labels is None and self.target:
            raise UserError(f"data.target={list(self.target)} names columns of a CSV file, which data.labels gives.")
        if self.stream:
            return StreamModule(self, self._files(), seed)
        if self.labels is None:
            arrays = load_images(self.name, self.root, self.reading)
        else:
            arrays = loaded(self._files(), Path(self.name), self.reading)
        return ImageModule(self, arrays.fitted(self.reading), seed)

    def _files(self) -> ImageArrays:
        """The picture files of a folder, which are not read yet."""
        path = path_of(self.name, self.root)
        if path is None or not path.is_dir():
            raise UserError(f"data.name={self.name!r} is no folder of pictures, as data.stream and data.labels need.")
        if self.labels is None:
            return class_folders(path)
        return labelled_folder(path, self.labels, self.target, self.target_kind)


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
        self._needs_noise = config.binarize == "dynamic" or config.transforms.changes
        """whether something is drawn at random for the images of all ranks, so that it is as in one process"""

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
            generator, index = self._next()
            yield self._prepared(images[index], labels[index], generator)

    def _next(self) -> tuple[torch.Generator | None, Tensor]:
        """The generator of the next minibatch, where it needs one, and the indices of this rank's, or then of all."""
        if self._needs_noise:
            return self.order.generator(), self.order.next_of_all()
        return None, self.order.next()

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
        if self.config.binarize == "dynamic" and not transforms.changes:
            return batch
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

    def training_sample(self, num: int) -> Batch:
        index = evenly(self.num_samples("train"), min(num, self.num_samples("val")))
        x = next(self._streams["train"].read([index.tolist()])).to(self.device)
        y = self._labels["train"][index.to(self.device)]
        return Batch(self._as_float(x, torch.Generator(self.device).manual_seed(0)), y)

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
            generator, index = self._next()
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


def load_images(name: str, root: str | None = None, reading: Reading = AS_THEY_ARE) -> ImageArrays:
    """The arrays of a data set. Raises UserError for one that is absent or damaged."""
    if name.startswith("hub:"):
        return read_hub(name.removeprefix("hub:"), reading)
    return load_named(IMAGES, name, root, partial(read_path, reading=reading))
