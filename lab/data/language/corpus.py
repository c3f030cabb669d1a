"""What a data set of sequences holds before it has a vocabulary: words, and what is to be predicted from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from lab.data.datasets import DataSet
from lab.data.targets.arrays import Array
from lab.registry import Registry

Text = str | Sequence[str]
"""a text, which is cut into words or characters later, or words as they are"""
Meaning = Literal["labels", "tags", "sentences"]


class Examples(NamedTuple):
    """N sequences and what is to be predicted from each.

    x: texts; or arrays (T, D) of numbers
    y: labels (N,) or (N, K) as an array; tags, a list of names for each sequence, one for each word; or texts
    """

    x: Sequence[Text] | Sequence[Array]
    y: Array | Sequence[Text]

    def chosen(self, index: Array) -> Examples:
        """Those of some numbers (K,)."""
        y = self.y[index] if isinstance(self.y, np.ndarray) else [self.y[i] for i in index]
        return Examples([self.x[i] for i in index], y)


class Corpus(NamedTuple):
    """Examples by split; where there is no `val` or `test`, a part of `train` is held out."""

    train: Examples
    test: Examples | None = None
    val: Examples | None = None
    meaning: Meaning = "labels"
    label_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, splits: Mapping[str, Examples], meaning: Meaning = "labels") -> Corpus:
        """Of splits by name, `train` among them."""
        return cls(splits["train"], splits.get("test"), splits.get("val"), meaning)


CORPORA: Registry[DataSet[Corpus]] = Registry("register_corpus", "corpus", "datasets")


def register_corpus(name: str) -> Callable[[DataSet[Corpus]], DataSet[Corpus]]:
    """Register a function `root -> Corpus` as the corpus `name`. Raises ValueError for a taken name."""
    return CORPORA.register(name)
