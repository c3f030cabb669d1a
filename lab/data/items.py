"""Single inputs from wherever people have them, read as the data of a run are: for predictions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lab.errors import UserError

STDIN = "-"
"""the source that stands for standard input"""


class Item(NamedTuple):
    """An input without its batch dimension (a tensor, or a dict of them), and what it is called."""

    name: str
    x: Any


def content(source: str) -> bytes:
    """The bytes of a file, or of standard input. Raises UserError when it cannot be read."""
    if source == STDIN:
        return sys.stdin.buffer.read()
    path = Path(source)
    if not path.is_file():
        raise UserError(f"there is no file {source!r}.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{source!r} cannot be read: {error.strerror}.") from None


def text(source: str) -> str:
    """The content of a UTF-8 file, or of standard input. Raises UserError when it is not UTF-8."""
    try:
        return content(source).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{source!r} is not UTF-8 (byte {error.start:,}).") from None


def lines_of(sources: Sequence[str]) -> Iterator[tuple[str, int, str]]:
    """Each source with the numbers and the text of its lines that are not blank. Raises UserError where all are."""
    for source in sources:
        lines = [(source, number, line) for number, line in enumerate(text(source).splitlines(), 1) if line.strip()]
        if not lines:
            raise UserError(f"{source!r} holds no text.")
        yield from lines
