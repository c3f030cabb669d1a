"""Corpora that are made, not read: tasks that only a memory can do. Always the same; no file needed.

T steps between the symbols to remember and the question.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lab.data.language.corpus import Corpus, Examples, register_corpus
from lab.data.targets.arrays import Array

_SIZES = {"train": 10_000, "val": 1_000, "test": 2_000}
_LETTERS = "abcdefgh"
_MEMORY = 10
"""symbols that the copy problem is to remember"""
_BLANK, _NOW = "_", "?"


@register_corpus("copy-20")
def copy_20(root: Path) -> Corpus:
    """The copy problem (Hochreiter and Schmidhuber 1997; Arjovsky et al. 2016): ten symbols, 20 blanks, and again.

    Guessing takes 10 ln 8 / 40 = 0.52 nats a step.
    """
    return _copy(20)


@register_corpus("copy-100")
def copy_100(root: Path) -> Corpus:
    """The copy problem with 100 blanks: guessing takes 10 ln 8 / 120 = 0.173 nats a step."""
    return _copy(100)


@register_corpus("adding-100")
def adding_100(root: Path) -> Corpus:
    """The adding problem (Hochreiter and Schmidhuber 1997): of 100 numbers in [0, 1], the sum of the two marked ones.

    Always saying 1 has a mean squared error of 0.167.
    """
    return _adding(100)


@register_corpus("reversed")
def reverse(root: Path) -> Corpus:
    """Words of 4 to 12 letters, to be told from the end."""
    rng = np.random.default_rng(0)

    def examples(num: int) -> Examples:
        words = [[_LETTERS[i] for i in rng.integers(8, size=rng.integers(4, 13))] for _ in range(num)]
        return Examples(words, [word[::-1] for word in words])

    return Corpus.of({split: examples(num) for split, num in _SIZES.items()}, "sentences")


def _copy(num_blanks: int) -> Corpus:
    """Words (10 + T + 10): symbols, blanks, and a question, to be tagged with blanks and then the symbols."""
    rng = np.random.default_rng(0)

    def examples(num: int) -> Examples:
        symbols = [[_LETTERS[i] for i in row] for row in rng.integers(8, size=(num, _MEMORY))]
        question = [_BLANK] * (num_blanks - 1) + [_NOW] + [_BLANK] * _MEMORY
        answer = [_BLANK] * (num_blanks + _MEMORY)
        return Examples([row + question for row in symbols], [answer + row for row in symbols])

    return Corpus.of({split: examples(num) for split, num in _SIZES.items()}, "tags")


def _adding(num_steps: int) -> Corpus:
    """Numbers (T, 2): one to add up or not, and 1 where it is to be, once in each half."""
    rng = np.random.default_rng(0)

    def examples(num: int) -> Examples:
        values, marks = rng.random((num, num_steps), np.float32), np.zeros((num, num_steps), np.float32)
        half = num_steps // 2
        rows = np.arange(num)
        marks[rows, rng.integers(half, size=num)] = marks[rows, half + rng.integers(num_steps - half, size=num)] = 1
        x: Array = np.stack([values, marks], -1)
        return Examples(list(x), (values * marks).sum(1).astype(np.float64))

    return Corpus.of({split: examples(num) for split, num in _SIZES.items()})
