"""Readers of image files: IDX (the MNIST format), .npz, a folder of images, the Hugging Face hub. Nothing unpickles."""

from __future__ import annotations

import gzip
import logging
import math
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lab.data import npz
from lab.data.image_arrays import ImageArrays
from lab.data.splits import held_out
from lab.data.targets.arrays import Array
from lab.errors import UserError
from lab.long_work import told

log = logging.getLogger("lab")

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
_VALIDATION = ("val", "valid", "validation")


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
    """One IDX file, gzipped or not. Raises UserError when it is damaged, cut short, or claims what it cannot hold."""
    zipped = path.suffix == ".gz"
    opener: Any = gzip.open if zipped else open
    try:
        with opener(path, "rb") as file:
            start = file.read(4)
            ndim = start[3] if len(start) == 4 else 0
            dimensions = file.read(4 * ndim)
            if start[:3] != b"\x00\x00\x08" or len(dimensions) < 4 * ndim:
                raise UserError(f"data file {str(path)!r} is not an IDX file of bytes.")
            shape = struct.unpack(f">{ndim}I", dimensions)
            size = math.prod(shape)
            npz.check_claim(path, size, path.stat().st_size * (npz.MOST_PACKED if zipped else 1))
            content = file.read(size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"data file {str(path)!r} is damaged or an interrupted download ({error}); fetch it again."
        ) from None
    if len(content) != size:
        least = "more than " if len(content) > size else ""
        raise UserError(
            f"data file {str(path)!r} is cut short or padded: {least}{min(len(content), size)} bytes for {shape}; "
            f"fetch it again."
        )
    return np.frombuffer(content, np.uint8).reshape(shape).copy()  # of its own, to be written to


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
        arrays = npz.read_arrays(path)
    except UserError:
        raise
    except npz.DAMAGES as error:
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

    train, val, test = split(("train",)), split(_VALIDATION), split(("test",))
    if train is None or test is None:
        raise UserError(f"{str(path)!r} holds {sorted(arrays)}; it needs x_train, y_train, x_test, y_test.")
    if train[0].dtype != np.uint8:
        raise UserError(f"images in {str(path)!r} are {train[0].dtype}; they need to be uint8.")
    return ImageArrays(train, test, val, levels=2 if train[0].max(initial=0) <= 1 else 256)


def read_image_folder(path: Path) -> ImageArrays:
    """A folder of images for each class: below `train`, `test` and `val`, or at the top.

    Where there is no `test`, `val` is the test split; where there is neither, a tenth of each class. Folders and files
    that an editor, a notebook or an archive leaves (.ipynb_checkpoints, __MACOSX, ._name) are no classes and no images.
    """
    if not (path / "train").is_dir():
        classes = _classes(path)
        x, y = _alike({"": _read_classes(path, classes)}, path)[""]
        rest, out = held_out(y, max(1, len(y) // 10))
        return ImageArrays((x[rest], y[rest]), (x[out], y[out]), label_names=tuple(classes))
    folders = {"train": path / "train", "test": path / "test"}
    val = next((path / name for name in _VALIDATION if (path / name).is_dir()), None)
    if not folders["test"].is_dir() and val is None:
        raise UserError(f"{str(path)!r} holds a folder train and no folder test (or val); it needs both.")
    if folders["test"].is_dir() and val is not None:
        folders["val"] = val
    elif val is not None:
        folders["test"] = val
    classes = _classes(folders["train"])
    for folder in folders.values():
        for name in _classes(folder):
            if name not in classes:
                raise UserError(f"{str(folder)!r} has a class {name!r} that {str(folders['train'])!r} lacks.")
    splits = _alike({split: _read_classes(folder, classes) for split, folder in folders.items()}, path)
    return ImageArrays(splits["train"], splits["test"], splits.get("val"), label_names=tuple(classes))


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
    classes = sorted(child.name for child in path.iterdir() if child.is_dir() and not _is_litter(child))
    if not classes:
        raise UserError(f"{str(path)!r} holds neither IDX files, nor an .npz, nor one folder of images for each class.")
    return classes


def _is_litter(path: Path) -> bool:
    return path.name.startswith((".", "__"))


def _read_classes(path: Path, classes: list[str]) -> tuple[list[Array], Array]:
    """Images (H, W) or (H, W, 3), and the number of each one's class; a class that the folder lacks has none."""
    images, labels = [], []
    for label, name in enumerate(classes):
        folder = path / name
        if not folder.is_dir():
            log.warning("%s has no class %r", path, name)
            continue
        files = [file for file in sorted(folder.iterdir()) if not _is_litter(file)]
        others = [file.name for file in files if file.suffix.lower() not in _IMAGE_SUFFIXES or not file.is_file()]
        if others:
            log.warning("%s: %d files are no images that can be read, %s first", folder, len(others), others[0])
        readable = [file for file in files if file.name not in others]
        pictures = [read_picture(file) for file in told(f"reading images from {folder}", readable)]
        if not pictures:
            log.warning("%s holds no images", folder)
        images += pictures
        labels += [label] * len(pictures)
    if not images:
        raise UserError(f"there are no images in {str(path)!r}.")
    return images, np.asarray(labels)


def read_picture(path: Path) -> Array:
    """One picture as uint8, grey (H, W) or in colour (H, W, 3), upright; 16 bits become 8, what is transparent white.

    Raises UserError when it cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = ImageOps.exif_transpose(image)
            if picture.mode.startswith("I"):  # 16 bits a pixel, whatever their order
                return (np.asarray(picture).astype(np.int64).clip(0, 65_535) / 257).round().astype(np.uint8)
            if picture.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in picture.info:
                picture = picture.convert("LA" if picture.mode in ("L", "LA", "1") else "RGBA")
                white = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(white, picture.convert("RGBA")).convert(
                    "L" if picture.mode == "LA" else "RGB"
                )
            return np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"image {str(path)!r} cannot be read ({error}).") from None


def _alike(splits: dict[str, tuple[list[Array], Array]], path: Path) -> dict[str, tuple[Array, Array]]:
    """Images stacked (N, H, W) or, where any of them is in colour, (N, H, W, 3). Raises UserError for several sizes."""
    everything = [image for images, _ in splits.values() for image in images]
    sizes = sorted({image.shape[:2] for image in everything})
    if len(sizes) > 1:
        raise UserError(
            f"images in {str(path)!r} differ in size ({sizes[:3]}, height and width); they need to be alike."
        )
    if len({image.ndim for image in everything}) == 1:
        return {split: (np.stack(images), labels) for split, (images, labels) in splits.items()}
    return {
        split: (np.stack([i if i.ndim == 3 else np.repeat(i[..., None], 3, 2) for i in images]), labels)
        for split, (images, labels) in splits.items()
    }
