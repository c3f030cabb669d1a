"""The next symbol of a text."""

from __future__ import annotations

from typing import NamedTuple


class Symbols(NamedTuple):
    """The next symbol of a text, one of `alphabet`."""

    alphabet: str
