"""Files that are always whole: written beside their place, then renamed."""

from __future__ import annotations

import os
from pathlib import Path

from lab.errors import Failure, shortened


def temporary_name(path: Path) -> Path:
    """Where this process writes what will replace `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether a file is what a process writes that is killed before it has replaced the real one."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def remove_temporary(folder: Path) -> None:
    """Remove what killed processes left in a folder in which nobody else writes now."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_atomic(path: Path, content: str) -> None:
    """Replace a file in one piece. Raises Failure when the disk is full."""
    temporary = temporary_name(path)
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_failure(path, error) from error


def disk_failure(path: Path, error: OSError) -> Failure:
    """What to say when a file cannot be written."""
    return Failure(
        f"{shortened(str(path))} could not be written: {error.strerror or error}; what was saved before is intact."
    )
