"""The next symbol of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lab.data.language.vocabulary import Unit


class Symbols(NamedTuple):
    """The next symbol of a text, one of `alphabet`: characters, or words."""

    alphabet: Sequence[str]
    unit: Unit = "characters"
    lower: bool = False
    """capitals of words are taken for small letters"""
