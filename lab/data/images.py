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

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from lab.data.datasets import DataSet, carried_by_scikit_learn, load_named, path_of
from lab.data.image_arrays import ImageArrays, Pair
from lab.data.image_files import read_hub, read_idx_folder
from lab.data.image_folders import class_folders, labelled_folder, loaded, read_path
from lab.data.image_module import ImageModule, StreamModule
from lab.data.pictures import AS_THEY_ARE, Fit, Reading
from lab.data.targets import TargetKind
from lab.data.transforms import TransformConfig
from lab.errors import UserError
from lab.experiment import DataConfig, Shared
from lab.registry import Registry

ImageSet = DataSet[ImageArrays]
IMAGES: Registry[ImageSet] = Registry("register_images", "data set", "datasets")


def register_images(name: str) -> Callable[[ImageSet], ImageSet]:
    """Register a function `root -> ImageArrays` as the data set `name`. Raises ValueError for a taken name."""
    return IMAGES.register(name)


class ImageData(DataConfig):
    """Images with class labels, resident on the device."""

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


def load_images(name: str, root: str | None = None, reading: Reading = AS_THEY_ARE) -> ImageArrays:
    """The arrays of a data set. Raises UserError for one that is absent or damaged."""
    if name.startswith("hub:"):
        return read_hub(name.removeprefix("hub:"), reading)
    return load_named(IMAGES, name, root, partial(read_path, reading=reading))


@register_images("digits")
def digits(root: Path) -> ImageArrays:
    """1,797 handwritten digits of 8x8 pixels and 17 grey levels, carried by scikit-learn (Alpaydin and Kaynak 1998)."""
    rows = np.loadtxt(carried_by_scikit_learn("digits.csv.gz"), np.int64, delimiter=",")
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    x, y = rows[:, :-1].reshape(-1, 8, 8).astype(np.uint8), rows[:, -1]
    return ImageArrays((x[:1297], y[:1297]), (x[1497:], y[1497:]), (x[1297:1497], y[1297:1497]), levels=17)


@register_images("scattered-digits")
def scattered_digits(root: Path) -> ImageArrays:
    """One to four of the embedded digits somewhere in an image of 28x28; the labels are which digits are there."""
    generator = np.random.default_rng(0)
    single = digits(root)
    assert single.val is not None
    train, val, test = (
        _scattered(pair, num, generator)
        for pair, num in ((single.train, 12_000), (single.val, 1_000), (single.test, 2_000))
    )
    return ImageArrays(train, test, val, levels=17, label_names=tuple("0123456789"))


def _scattered(pair: Pair, num: int, generator: np.random.Generator) -> Pair:
    """`num` images (N, 28, 28), and labels (N, 10), 1 for each digit that is there: one at most in each quarter."""
    x, y = np.zeros((num, 28, 28), np.uint8), np.zeros((num, 10), np.uint8)
    for image, labels in zip(x, y, strict=True):
        for quarter in generator.permutation(4)[: generator.integers(1, 5)]:
            chosen = generator.integers(len(pair[0]))
            top, left = divmod(int(quarter), 2) + generator.integers(0, 7, 2) / 14
            top, left = round(14 * top), round(14 * left)
            image[top : top + 8, left : left + 8] = pair[0][chosen]
            labels[pair[1][chosen]] = 1
    return x, y


@register_images("mnist")
def mnist(root: Path) -> ImageArrays:
    """MNIST: 60,000 + 10,000 digits of 28x28 (LeCun et al. 1998), from IDX files in LAB_DATA."""
    return read_idx_folder(root / "mnist", root)


@register_images("fashion-mnist")
def fashion_mnist(root: Path) -> ImageArrays:
    """Fashion-MNIST: 60,000 + 10,000 articles of 28x28 (Xiao et al. 2017), from IDX files in LAB_DATA."""
    names = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    return read_idx_folder(root / "fashion-mnist", root)._replace(label_names=names)


@register_images("binarized-mnist")
def binarized_mnist(root: Path) -> ImageArrays:
    """Static binarized MNIST: 50,000 + 10,000 + 10,000 (Larochelle and Murray 2011), from an .npz in LAB_DATA."""
    return read_path(root / "binarized-mnist")


@register_images("cifar10-subset")
def cifar10_subset(root: Path) -> ImageArrays:
    """3,000 + 1,000 colour images of CIFAR-10 (Krizhevsky 2009), from an .npz in LAB_DATA."""
    return read_path(root / "cifar10-subset")
