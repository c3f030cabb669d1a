"""Files from anywhere, judged before they are read: a stranger's may be a pipe, a link, or larger than the memory."""

from __future__ import annotations

import errno
import json
import stat
from pathlib import Path
from typing import Any

_MOST_BYTES = 64 * 2**20


def may_be_written(path: Path) -> bool:
    """Whether a path is no pipe, which would hang its writer, nor a link, which would lead elsewhere.

    It may be absent, or in a folder that cannot be read: opening it says so.
    """
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return True


def read_regular(path: Path, most_bytes: int = _MOST_BYTES) -> bytes:
    """The content of a regular file of at most so many bytes. Raises OSError when it is absent, larger or none."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    if found.st_size > most_bytes:
        raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, and {most_bytes:,} are the most")
    return path.read_bytes()


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError when it is none, or nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def leads_outside(path: Path, folder: Path) -> bool:
    """Whether what stands below `folder` is, by symbolic links, somewhere else."""
    return not path.resolve().is_relative_to(folder.resolve())
