"""Readers of files of many images: IDX (the MNIST format), .npz, the Hugging Face hub. Nothing unpickles."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lab.data import npz
from lab.data.image_arrays import ImageArrays
from lab.data.pictures import AS_THEY_ARE, Reading, fitted_array
from lab.data.targets.arrays import Array
from lab.errors import UserError

VALIDATION = ("val", "valid", "validation")


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
    arrays = npz.read_arrays(path)

    def split(names: tuple[str, ...]) -> tuple[Array, Array] | None:
        for name in names:
            for x_key, y_key in ((f"x_{name}", f"y_{name}"), (f"{name}_images", f"{name}_labels"), (name, f"{name}_y")):
                if x_key in arrays:
                    x = arrays[x_key]
                    if x.ndim == 2 and x.shape[1] == 98:
                        x = np.unpackbits(x, axis=1).reshape(-1, 28, 28)
                    return x, arrays.get(y_key, np.zeros(len(x), np.int64))
        return None

    train, val, test = split(("train",)), split(VALIDATION), split(("test",))
    if train is None or test is None:
        raise UserError(f"{str(path)!r} holds {sorted(arrays)}; it needs x_train, y_train, x_test, y_test.")
    if train[0].dtype != np.uint8:
        raise UserError(f"images in {str(path)!r} are {train[0].dtype}; they need to be uint8.")
    return ImageArrays(train, test, val, levels=2 if train[0].max(initial=0) <= 1 else 256)


def read_hub(name: str, reading: Reading = AS_THEY_ARE) -> ImageArrays:
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
        return np.stack([fitted_array(np.asarray(item), reading) for item in hub[split][image]]), np.asarray(
            hub[split][label]
        )

    try:
        return ImageArrays(arrays("train"), arrays("test"), arrays("validation") if "validation" in hub else None)
    except (StopIteration, KeyError) as error:
        raise UserError(
            f"data set 'hub:{name}' needs splits train and test with an image and a label column."
        ) from error
