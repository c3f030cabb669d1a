"""The data sets of images by name: embedded ones, and files below LAB_DATA."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lab.data.datasets import carried_by_scikit_learn
from lab.data.image_arrays import ImageArrays, Pair
from lab.data.image_files import read_idx_folder
from lab.data.image_folders import read_path
from lab.data.images import register_images


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
