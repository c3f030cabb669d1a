"""Archives of plain arrays (.npz) from anywhere: judged by their headers before anything is unpacked."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from lab.errors import UserError

Array = np.ndarray[Any, Any]
MOST_PACKED = 1_100
"""bytes that one packed byte can hold: deflate's limit is 1,032"""
DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, OSError, NotImplementedError)
"""what reading a damaged archive, or one that is none, raises"""
_MOST_HEADER = 65_536
"""bytes before the numbers of an array"""


def read_arrays(path: Path) -> dict[str, Array]:
    """All arrays of an archive. Raises UserError for one that is damaged, or claims what it cannot hold."""
    try:
        check_arrays(path)
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except UserError:
        raise
    except DAMAGES as error:
        raise UserError(f"{str(path)!r} is absent, damaged, or not an .npz of plain arrays ({error}).") from None


def read_array(content: bytes) -> Array:
    """The array of a .npy file's content. Raises what is in DAMAGES, also where it claims more than it holds."""
    file = io.BytesIO(content)
    shape, dtype = _header(file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize > len(content) - file.tell():
        raise ValueError(f"it claims {math.prod(shape):,} values of {dtype} and holds {len(content):,} bytes")
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))


def check_arrays(path: Path) -> None:
    """Raise UserError when an archive claims more than it can hold or than there is memory, DAMAGES when it is none."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                shape, dtype = _header(file)
            size = math.prod(shape) * dtype.itemsize
            if not dtype.hasobject and not size <= member.file_size <= size + _MOST_HEADER:
                raise ValueError(f"{member.filename} claims {size:,} bytes and has {member.file_size:,}")
            check_claim(path, member.file_size, member.compress_size * MOST_PACKED + _MOST_HEADER)
        check_claim(path, sum(member.file_size for member in archive.infolist()), None)


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and type that the header of an array says, which is read."""
    version = np.lib.format.read_magic(file)
    reader = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
    shape, _, dtype = reader(file)
    return shape, dtype


def check_claim(path: Path, size: int, limit: int | None) -> None:
    """Raise UserError when a file says that it holds more bytes than it can, or than this machine's memory."""
    if limit is not None and size > limit:
        raise UserError(f"data file {str(path)!r} claims {size:,} bytes, more than it can hold; it is damaged.")
    free = psutil.virtual_memory().available
    if size > free:
        raise UserError(
            f"data file {str(path)!r} holds {size:,} bytes; this machine has {free:,} bytes of memory free."
        )
