"""Readers of image files: IDX (the MNIST format), .npz, a folder of images, the Hugging Face hub.

Nothing here unpickles: `np.load` is called without `allow_pickle`.
"""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lab.data.image_arrays import Array, ImageArrays
from lab.errors import UserError

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}


def read_path(path: Path) -> ImageArrays:
    """Images from an .npz file, or a folder with IDX files, one .npz, or a folder of images for each class."""
    if path.is_file():
        if path.suffix != ".npz":
            raise UserError(f"data file {str(path)!r} is not an .npz; give an .npz, a folder, or a registered name.")
        return read_npz(path)
    if not path.is_dir():
        raise UserError(f"there is no data in {str(path)!r}; set LAB_DATA or data.root to the folder that holds it.")
    archives = sorted(path.glob("*.npz"))
    if len(archives) == 1:
        return read_npz(archives[0])
    if any(path.glob("*-ubyte*")):
        return read_idx_folder(path)
    return read_image_folder(path)


def read_idx(path: Path) -> Array:
    """One IDX file, gzipped or not. Raises UserError when it is damaged or cut short."""
    try:
        opener: Any = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            content = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"data file {str(path)!r} is damaged or an interrupted download ({error}); fetch it again."
        ) from None
    ndim = content[3] if len(content) > 3 else 0
    header = 4 + 4 * ndim
    if content[:3] != b"\x00\x00\x08" or len(content) < header:
        raise UserError(f"data file {str(path)!r} is not an IDX file of bytes.")
    shape = struct.unpack(f">{ndim}I", content[4:header])
    if len(content) - header != int(np.prod(shape)):
        raise UserError(
            f"data file {str(path)!r} is cut short: {len(content) - header} bytes for shape {shape}; fetch it again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()  # of its own, to be written to


def read_idx_folder(*folders: Path) -> ImageArrays:
    """The four MNIST-format files, in the first of `folders` that has them."""

    def find(stem: str) -> Path:
        for folder in folders:
            for pattern in (stem, stem.replace("-idx", ".idx")):
                for suffix in (".gz", ""):
                    if (folder / (pattern + suffix)).is_file():
                        return folder / (pattern + suffix)
        places = " or ".join(repr(str(folder)) for folder in folders)
        raise UserError(f"there is no {stem}(.gz) in {places}; set LAB_DATA or data.root to the folder that holds it.")

    train = read_idx(find("train-images-idx3-ubyte")), read_idx(find("train-labels-idx1-ubyte"))
    test = read_idx(find("t10k-images-idx3-ubyte")), read_idx(find("t10k-labels-idx1-ubyte"))
    return ImageArrays(train, test)


def read_npz(path: Path) -> ImageArrays:
    """Arrays `x_train, y_train, x_test, y_test`, or `train_images, ...`, or `train, valid, test` without labels.

    Rows of 98 bytes are 784 packed bits of a 28x28 image.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
        raise UserError(f"data file {str(path)!r} is damaged or not an .npz of plain arrays ({error}).") from None

    def split(names: tuple[str, ...]) -> tuple[Array, Array] | None:
        for name in names:
            for x_key, y_key in ((f"x_{name}", f"y_{name}"), (f"{name}_images", f"{name}_labels"), (name, f"{name}_y")):
                if x_key in arrays:
                    x = arrays[x_key]
                    if x.ndim == 2 and x.shape[1] == 98:
                        x = np.unpackbits(x, axis=1).reshape(-1, 28, 28)
                    return x, arrays.get(y_key, np.zeros(len(x), np.int64))
        return None

    train, val, test = split(("train",)), split(("valid", "val", "validation")), split(("test",))
    if train is None or test is None:
        raise UserError(f"{str(path)!r} holds {sorted(arrays)}; it needs x_train, y_train, x_test, y_test.")
    if train[0].dtype != np.uint8:
        raise UserError(f"images in {str(path)!r} are {train[0].dtype}; they need to be uint8.")
    return ImageArrays(train, test, val, levels=2 if train[0].max(initial=0) <= 1 else 256)


def read_image_folder(path: Path) -> ImageArrays:
    """A folder of images for each class, below `train` and `test` or at the top (then a tenth is the test split)."""
    if (path / "train").is_dir() and (path / "test").is_dir():
        classes = _classes(path / "train")
        return ImageArrays(
            _read_classes(path / "train", classes), _read_classes(path / "test", classes), class_names=tuple(classes)
        )
    classes = _classes(path)
    x, y = _read_classes(path, classes)
    order = np.random.default_rng(0).permutation(len(y))
    x, y, cut = x[order], y[order], max(1, len(y) // 10)
    return ImageArrays((x[cut:], y[cut:]), (x[:cut], y[:cut]), class_names=tuple(classes))


def read_hub(name: str) -> ImageArrays:
    """A data set of the Hugging Face hub with one image and one label column."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"data set 'hub:{name}' needs the datasets library: pip install 'lab[hub]'.") from None
    try:
        hub = datasets.load_dataset(name)
    except Exception as error:  # the hub's client raises a dozen kinds: no network, no such name, a moved repository
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"data set 'hub:{name}' could not be loaded: {reason}") from None

    def arrays(split: str) -> tuple[Array, Array]:
        features = hub[split].features
        image = next(key for key, feature in features.items() if type(feature).__name__ == "Image")
        label = next(key for key, feature in features.items() if type(feature).__name__ == "ClassLabel")
        return np.stack([np.asarray(item) for item in hub[split][image]]), np.asarray(hub[split][label])

    try:
        return ImageArrays(arrays("train"), arrays("test"), arrays("validation") if "validation" in hub else None)
    except (StopIteration, KeyError) as error:
        raise UserError(
            f"data set 'hub:{name}' needs splits train and test with an image and a label column."
        ) from error


def _classes(path: Path) -> list[str]:
    classes = sorted(child.name for child in path.iterdir() if child.is_dir())
    if not classes:
        raise UserError(f"{str(path)!r} holds neither IDX files, nor an .npz, nor one folder of images for each class.")
    return classes


def _read_classes(path: Path, classes: list[str]) -> tuple[Array, Array]:
    from PIL import Image, UnidentifiedImageError

    images, labels = [], []
    for label, name in enumerate(classes):
        for file in sorted((path / name).iterdir()):
            if file.suffix.lower() in _IMAGE_SUFFIXES:
                try:
                    with Image.open(file) as image:
                        images.append(np.asarray(image.convert("L" if image.mode in ("1", "L", "I;16") else "RGB")))
                except (UnidentifiedImageError, OSError) as error:
                    raise UserError(f"image {str(file)!r} cannot be read ({error}).") from None
                labels.append(label)
    if not images:
        raise UserError(f"there are no images in {str(path)!r}.")
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise UserError(f"images in {str(path)!r} differ in shape ({sorted(shapes)[:3]}); they need to be alike.")
    return np.stack(images), np.asarray(labels)
