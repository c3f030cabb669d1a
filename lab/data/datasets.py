"""Data sets by name or path, whatever they hold: a kind of data declares a registry and reads the rest from files.

    IMAGES: Registry[DataSet[ImageArrays]] = Registry("register_images", "data set", "datasets")

`root` is `data.root`, else the environment variable LAB_DATA, else `./data`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from lab.errors import unknown
from lab.registry import Registry

T = TypeVar("T")
DataSet = Callable[[Path], T]
"""a function from the folder of data files to what a data set holds"""


def data_folder(root: str | None) -> Path:
    """Where data files are looked for: `root`, else LAB_DATA, else ./data."""
    return Path(root or os.environ.get("LAB_DATA") or "data").expanduser()


def path_of(name: str, root: str | None) -> Path | None:
    """The file or folder of that name, itself or below the root; None where there is none."""
    return next((path for path in (Path(name).expanduser(), data_folder(root) / name) if path.exists()), None)


def carried_by_scikit_learn(file: str) -> Path:
    """A data file of the installed scikit-learn, whose import takes longer than a training on it."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "datasets" / "data" / file


def load_named(registry: Registry[DataSet[T]], name: str, root: str | None, read: Callable[[Path], T]) -> T:
    """What a registered data set holds, or what `read` gives of the path `name`, itself or below the root.

    Raises UserError for a name that is neither, and what the data set or `read` raise.
    """
    data_set = registry.get(name)
    if data_set is not None:
        return data_set(data_folder(root))
    path = path_of(name, root)
    if path is not None:
        return read(path)
    raise unknown(f"{registry.noun} (or path)", name, registry.names())
