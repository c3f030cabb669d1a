"""Rows of metrics, a line of JSON each."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from lab.foreign import parse_json


class MetricsFile:
    """Rows of metrics appended to a file and flushed line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        """Write one row."""
        self._file.write(json.dumps(json_safe(row)) + "\n")
        self._file.flush()

    def offset(self) -> int:
        """Bytes written so far, on disk when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def truncate(self, offset: int) -> bool:
        """Cut the file back to a checkpoint's offset; returns whether it went so far.

        One that did not keeps its whole lines.
        """
        long_enough = self.path.stat().st_size >= offset
        if not long_enough:
            with self.path.open("rb") as file:
                offset = file.read().rfind(b"\n") + 1
        self._file.truncate(offset)
        self._file.seek(0, os.SEEK_END)
        return long_enough

    def rows_between(self, start: int, end: int) -> list[dict[str, Any]]:
        """The rows in a byte range."""
        with self.path.open("rb") as file:
            file.seek(start)
            return rows_of(file.read(end - start))

    def close(self) -> None:
        self._file.close()


def rows_of(content: bytes) -> list[dict[str, Any]]:
    """The rows in the bytes of a metrics file; a line that is none, as a crash leaves them, is left out."""
    rows = []
    for line in content.splitlines():
        try:
            row = parse_json(line.strip(b"\0"))
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def offset_of(path: Path, num_rows: int) -> int:
    """Where the row after the first `num_rows` begins in a metrics file."""
    with path.open("rb") as file:
        return sum(len(file.readline()) for _ in range(num_rows))


def json_safe(value: Any) -> Any:
    """Plain JSON values; NaN and infinities become null, which every reader understands."""
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
