"""Images with captions, resident on the device.

`data.name` is a registered set of captioned images (`lab list datasets`), or a file below `root` or anywhere: a JSON in
COCO's form (`images` with `id` and `file_name`, `annotations` with `image_id` and `caption`), or a CSV with the columns
`file` and `caption`, whose pictures lie beside it or in `data.folder`. B batch, C channels, H rows, W columns, T words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from lab.data.datasets import DataSet, load_named, path_of
from lab.data.image_items import image_items
from lab.data.items import Item
from lab.data.language.ragged import Ragged
from lab.data.language.vocabulary import END, PAD, Vocabulary
from lab.data.module import LabDataModule
from lab.data.pictures import Fit, Reading, read_picture
from lab.data.resident import Batch, Chunk, ShuffledOrder, evenly
from lab.data.spec import DataSpec, TensorSpec
from lab.data.splits import held_out
from lab.data.table_files import column, read_csv
from lab.data.targets import Sentence
from lab.data.targets.arrays import Array
from lab.data.text import read_text
from lab.errors import UserError
from lab.experiment import DataConfig, Shared
from lab.long_work import told
from lab.registry import Registry

Split = Literal["train", "val", "test"]


class Captioned(NamedTuple):
    """Images (N, H, W) or (N, H, W, C) uint8, or the files (N,) that they are to be read from, and N captions."""

    images: Array
    captions: Sequence[str]

    def chosen(self, index: Array) -> Captioned:
        return Captioned(self.images[index], [self.captions[i] for i in index])


CaptionSplits = dict[str, Captioned]
"""by split; what is missing is held out of train"""
CAPTIONS: Registry[DataSet[CaptionSplits]] = Registry("register_captions", "set of captions", "datasets")


def register_captions(name: str) -> Callable[[DataSet[CaptionSplits]], DataSet[CaptionSplits]]:
    """Register a function `root -> CaptionSplits` under `name`. Raises ValueError for a taken name."""
    return CAPTIONS.register(name)


class CaptionData(DataConfig):
    """Images with a sentence each; an image with several captions is there several times."""

    kind: Literal["captions"] = "captions"
    name: str = "scenes"
    """a registered set, or a JSON or CSV file of captions"""
    root: str | None = None
    """folder of data files; by default LAB_DATA, else ./data"""
    folder: str | None = None
    """where the pictures that a file names lie; by default beside it"""
    size: tuple[Annotated[int, Field(ge=1, le=8_192)], Annotated[int, Field(ge=1, le=8_192)]] | None = None
    """rows and columns that pictures are brought to; by default they stay as they are, all alike"""
    fit: Fit = "resize"
    """how: resize stretches, crop cuts what is beyond the middle, pad puts ground on two sides"""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colour; by default as the pictures are"""
    punctuation: bool = False
    """cut words at punctuation marks, which are words themselves, not at spaces alone"""
    lower: bool = True
    """take capitals for small letters"""
    least: PositiveInt = 1
    """how often a word must occur in training to be known"""
    longest: PositiveInt = 50
    """captions that are longer are cut"""
    batch_size: Annotated[PositiveInt, Shared("equal")] = 64
    batches_per_step: PositiveInt = 8
    """minibatches in one training step; more of them, less overhead"""
    validation: float = Field(default=0.1, gt=0, lt=0.5)
    """share of the training images held out for validation, where there is no such split"""
    test: float = Field(default=0.1, gt=0, lt=0.5)
    """share of them held out for testing, likewise"""
    split_seed: NonNegativeInt = 0
    """which images are held out"""

    @property
    def reading(self) -> Reading:
        """How pictures are read."""
        return Reading(self.size, self.fit, self.channels, "white")

    def build(self, seed: int) -> CaptionModule:
        """Load images and captions. Raises UserError for a file that is absent or damaged, or pictures that differ."""
        return CaptionModule(self, load_named(CAPTIONS, self.name, self.root, self._read), seed)

    def _read(self, path: Path) -> CaptionSplits:
        folder = path.parent if self.folder is None else path_of(self.folder, self.root)
        if folder is None or not folder.is_dir():
            raise UserError(f"data.folder={self.folder!r} is no folder.")
        return {"train": read_captions(path, folder)}


class CaptionModule(LabDataModule):
    """x (B, C, H, W) float in [0, 1], y (B, T) int64 tokens ended by END and filled with PAD."""

    def __init__(self, config: CaptionData, splits: CaptionSplits, seed: int) -> None:
        super().__init__()
        self.config = config
        splits = _divided(splits, config)
        words = [self._cut(caption) for caption in splits["train"].captions]
        vocabulary = Vocabulary.of(words, lower=config.lower, punctuation=config.punctuation, least=config.least)
        self._splits: dict[str, tuple[Tensor, Ragged]] = {}
        for split, held in splits.items():
            images = _images(held.images, config.reading, config.name)
            tokens = [[*vocabulary.numbers(self._cut(each))[: config.longest - 1], END] for each in held.captions]
            self._splits[split] = images, Ragged.of(tokens)
        shape = tuple(self._splits["train"][0].shape[1:])
        for split, (images, _) in self._splits.items():
            if tuple(images.shape[1:]) != shape:
                raise UserError(
                    f"images of the {split} split of {config.name!r} are {tuple(images.shape[1:])}, of "
                    f"train {shape}; data.size makes them alike."
                )
        lengths = self._splits["train"][1].lengths
        longest = int(max(held.lengths.max() for _, held in self._splits.values()))
        target = Sentence(vocabulary, float(lengths.float().mean()), longest)
        self.spec = DataSpec(TensorSpec(shape, torch.float32, 0.0, 1.0, 256), target=target)
        self.order = ShuffledOrder(len(lengths), config.batch_size, seed, self.device)

    def to(self, device: torch.device) -> None:
        super().to(device)
        self._splits = {name: (x.to(device), y.to(device)) for name, (x, y) in self._splits.items()}
        self.order.device = device

    def next_chunk(self) -> Chunk[Batch]:
        num = self.config.batches_per_step
        return Chunk((self._batch("train", self.order.next()) for _ in range(num)), num)

    def batches(self, split: Split, batch_size: int = 100) -> Iterator[Batch]:
        """A split in order."""
        numbers = list(torch.arange(len(self._splits[split][0]), device=self.device).split(batch_size))
        return (self._batch(split, index) for index in told(f"going through the {split} split", numbers))

    def training_sample(self, num: int) -> Batch:
        num_val = len(self._splits["val"][0])
        return self._batch("train", evenly(len(self._splits["train"][0]), min(num, num_val)).to(self.device))

    def items(self, sources: Sequence[str]) -> Iterator[Item]:
        """Pictures, brought to the size and channels of these."""
        assert isinstance(self.spec.inputs, TensorSpec)
        for name, x in image_items(sources, self.spec.inputs.shape, self.config.reading):
            yield Item(name, x)

    def fixed_tensors(self) -> Iterator[Tensor]:
        for images, captions in self._splits.values():
            yield from (images, captions.values, captions.lengths)

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.order.drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.order.drawn = state_dict["drawn"]

    def _batch(self, split: Split, index: Tensor) -> Batch:
        images, captions = self._splits[split]
        return Batch(images[index].float().div_(255), captions.padded(index, PAD))

    def _cut(self, caption: str) -> list[str]:
        return Vocabulary((), punctuation=self.config.punctuation).cut(caption)


def read_captions(path: Path, folder: Path) -> Captioned:
    """The files and captions that a JSON in COCO's form, or a CSV, names.

    Raises UserError that names the file, and the place in it.
    """
    if path.suffix == ".json":
        return _of_coco(path, folder)
    table = read_csv(path)
    missing = [name for name in ("file", "caption") if name not in table.header]
    if missing:
        raise UserError(f"{str(path)!r} has no column {missing[0]!r}; there are {', '.join(table.header)}.")
    rows = zip(table.lines, column(table, "file"), column(table, "caption"), strict=True)
    return _captioned(path, folder, [(f"line {line}", file, caption) for line, file, caption in rows])


def _of_coco(path: Path, folder: Path) -> Captioned:
    try:
        whole = json.loads(read_text(path))
        files = {image["id"]: str(image["file_name"]) for image in whole["images"]}
        rows = [(each["image_id"], str(each["caption"])) for each in whole["annotations"]]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{str(path)!r} is no JSON of captions in COCO's form ({type(error).__name__}: {error})."
        ) from None
    for number, (image, _) in enumerate(rows):
        if image not in files:
            raise UserError(f"{str(path)!r}, annotation {number}: image {image!r} is not among its images.")
    return _captioned(path, folder, [(f"annotation {i}", files[image], text) for i, (image, text) in enumerate(rows)])


def _captioned(path: Path, folder: Path, rows: list[tuple[str, str, str]]) -> Captioned:
    """Of rows of a place, a file below the folder and a caption."""
    if not rows:
        raise UserError(f"{str(path)!r} holds no captions.")
    for place, file, caption in rows:
        if not caption.strip():
            raise UserError(f"{str(path)!r}, {place}: the caption of {file!r} is empty.")
        inside = (folder / file).resolve()
        if not inside.is_relative_to(folder.resolve()) or not inside.is_file():
            raise UserError(f"{str(path)!r}, {place}: there is no picture {file!r} in {str(folder)!r}.")
    return Captioned(np.array([str(folder / file) for _, file, _ in rows]), [caption for _, _, caption in rows])


def _images(images: Array, reading: Reading, name: str) -> Tensor:
    """(N, C, H, W) uint8."""
    if images.dtype.kind == "U":
        read: dict[str, Array] = {}
        for file in told("reading pictures", list(dict.fromkeys(images.tolist()))):
            read[file] = read_picture(Path(file), reading)
            first = next(iter(read.values()))
            if read[file].shape != first.shape:
                raise UserError(
                    f"image {file!r} is {read[file].shape}, the first one {first.shape}; data.size and data.channels "
                    f"make them alike."
                )
        images = np.stack([read[file] for file in images.tolist()])
    x = torch.from_numpy(np.ascontiguousarray(images))
    return x[:, None] if x.dim() == 3 else x.permute(0, 3, 1, 2).contiguous()


def _divided(splits: CaptionSplits, config: CaptionData) -> CaptionSplits:
    """With what is missing held out of train, whole images with all of their captions."""
    splits = dict(splits)
    for split, share in (("test", config.test), ("val", config.validation)):
        if split in splits:
            continue
        train = splits["train"]
        by_file = train.images.dtype.kind == "U"
        images = np.unique(train.images, return_inverse=True)[1] if by_file else np.arange(len(train.captions))
        num = int(images.max()) + 1
        _, out = held_out(np.zeros(num, np.int64), max(1, round(share * num)), config.split_seed)
        is_out = np.isin(images, out)
        splits["train"], splits[split] = train.chosen(np.flatnonzero(~is_out)), train.chosen(np.flatnonzero(is_out))
    for split, held in splits.items():
        if not len(held.captions):
            raise UserError(f"the {split} split of {config.name!r} is empty.")
    return splits
