"""A sequence of words or characters, told word by word."""

from __future__ import annotations

from typing import NamedTuple

from lab.data.language.vocabulary import Vocabulary


class Sentence(NamedTuple):
    """Tokens of a vocabulary; a batch holds y (B, T) int64, each sequence ended by END and filled with PAD.

    `mean_length` is that of training sequences, their END among them; `longest` bounds what is told.
    """

    vocabulary: Vocabulary
    mean_length: float
    longest: int
