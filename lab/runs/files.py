"""Files that are always whole: written beside their place, then renamed."""

from __future__ import annotations

import os
from pathlib import Path

from lab.errors import Failure


def write_atomic(path: Path, content: str) -> None:
    """Replace a file in one piece. Raises Failure when the disk is full."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_failure(path, error) from error


def disk_failure(path: Path, error: OSError) -> Failure:
    """What to say when a file cannot be written."""
    return Failure(f"{path} could not be written: {error.strerror or error}; what was saved before is intact.")
