"""One line of an error, for a sentence."""

from __future__ import annotations

_MAX_CHARACTERS = 300


def first_line(error: BaseException) -> str:
    """The first line of an error's text that is not empty, or the name of its type."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)[:_MAX_CHARACTERS]


def last_line(error: BaseException) -> str:
    """The line of a Ray error that says what happened: the last one, below the traceback of the other process."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line.strip("^~ ")), type(error).__name__)[:_MAX_CHARACTERS]


def one_line(error: BaseException) -> str:
    """An error's whole text in one line, cut to 300 characters."""
    return " ".join(str(error).split())[:_MAX_CHARACTERS]
