"""Trees of words with a label at their nodes, or, for comparison, their words alone with the root's label.

`data.name` is a registered corpus of trees (`lab list datasets`) or the path of one, itself or below `root`, which is
`data.root`, else the environment variable LAB_DATA, else `./data` (format: tree_files.py). The vocabulary is that of
the training split. B batch, N nodes of the largest tree of a batch, T its words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from lab.data.datasets import load_named
from lab.data.items import Item, lines_of
from lab.data.language.ragged import Ragged
from lab.data.language.ragged_module import Held, RaggedModule
from lab.data.language.tree_files import NO_LABEL, TREES, Tree, TreeCorpus, read_tree, read_tree_corpus
from lab.data.language.vocabulary import PAD, Vocabulary
from lab.data.spec import DataSpec, TensorSpec, TreeSpec
from lab.data.splits import held_out, tell_absent
from lab.data.targets import NO_TAG, Classes, TreeClasses
from lab.data.targets.arrays import Array
from lab.errors import UserError
from lab.experiment import DataConfig, Shared

_MOST_NAMED = 10
"""labels in a message"""


class TreeData(DataConfig):
    """Trees of words, resident on the device."""

    kind: Literal["trees"] = "trees"
    name: str = "expressions"
    """a registered corpus of trees, a file or a folder"""
    root: str | None = None
    """folder of data files; by default LAB_DATA, else ./data"""
    flat: bool = False
    """give the words alone, in order, with the root's label, to whatever reads sequences"""
    lower: bool = False
    """take capitals for small letters"""
    least: PositiveInt = 1
    """how often a word must occur in training to be known"""
    vocabulary: PositiveInt | None = None
    """how many words are known at most, the most frequent ones"""
    batch_size: Annotated[PositiveInt, Shared("equal")] = 32
    batches_per_step: PositiveInt = 8
    """minibatches in one training step; more of them, less overhead"""
    validation: float = Field(default=0.1, gt=0, lt=0.5)
    """share of the training split held out for validation, of each class of roots, where the corpus has none"""
    test: float = Field(default=0.1, gt=0, lt=0.5)
    """share of it held out for testing, likewise"""
    split_seed: NonNegativeInt = 0
    """which trees are held out"""

    def build(self, seed: int) -> TreeModule:
        """Load the corpus. Raises UserError for one that is absent or damaged, or too small."""
        return TreeModule(self, load_named(TREES, self.name, self.root, read_tree_corpus), seed)


class TreeModule(RaggedModule):
    """x (B, N, 4) int64: a row for each node in post-order, the root last: its word (PAD of an inner node), the numbers
    of its left and its right child (0 of a leaf), and its height; rows of 0 behind the root. y as TreeClasses say.

    With data.flat, x (B, T) int64 tokens filled with PAD, and y (B,) the roots' classes.
    """

    def __init__(self, config: TreeData, corpus: TreeCorpus, seed: int) -> None:
        super().__init__()
        self.config, self.batches_per_step = config, config.batches_per_step
        splits = _divided(corpus, config)
        self.vocabulary = Vocabulary.of(
            (tree.leaves for tree in splits["train"]), lower=config.lower, least=config.least, most=config.vocabulary
        )
        self.classes, self.numbers = _classes(corpus)
        labels = {split: self._labels(split, trees) for split, trees in splits.items()}
        roots = {split: _roots(held) for split, held in labels.items()}
        tell_absent(self.classes, {split: y.numpy() for split, y in roots.items()}, config.name)
        self._splits: dict[str, Held] = {
            split: (self._inputs(trees), roots[split] if config.flat else labels[split])
            for split, trees in splits.items()
        }
        self.spec = self._specify(labels["train"], roots["train"])
        self.order = self._ordered(config.name, config.batch_size, seed)

    def items(self, sources: Sequence[str]) -> Iterator[Item]:
        """Trees in brackets, one a line of a file or of standard input; labels may stand in them."""
        for source, number, line in lines_of(sources):
            yield Item(f"{source}:{number}", self.encode(line, f"{source!r}, line {number}"))

    def texts(self, texts: Sequence[str]) -> Iterator[Item]:
        for text in texts:
            yield Item(text, self.encode(text, f"{text!r}"))

    def encode(self, text: str, place: str) -> Tensor:
        """A tree in brackets as inputs (N, 4), or (T,) with data.flat, without their batch dimension.

        Raises UserError, which names the place, for what is no tree, or has labels that training lacks.
        """
        tree = read_tree(text.strip(), place, labelled=False)
        strange = next((label for label in tree.labels if label not in self.numbers), None)
        if strange is not None:
            known = [label for label in self.numbers if label != NO_LABEL][:_MOST_NAMED]
            raise UserError(
                f"{place}: {strange!r} is no label of the run's trees ({', '.join(known)}); it may be left out, and "
                f"each word needs brackets of its own: ((a) ((great) (film)))."
            )
        return self._inputs([tree]).values

    def _inputs(self, trees: Sequence[Tree]) -> Ragged:
        if self.config.flat:
            return Ragged.of([self.vocabulary.numbers(tree.leaves) for tree in trees])
        words = [
            number if word else PAD
            for tree in trees
            for word, number in zip(tree.words, self.vocabulary.numbers(tree.words), strict=True)
        ]
        columns = (words, *(_joined(getattr(tree, name) for tree in trees) for name in ("left", "right", "heights")))
        return Ragged(torch.stack([torch.tensor(column) for column in columns], 1), _lengths(trees))

    def _labels(self, split: str, trees: Sequence[Tree]) -> Ragged:
        """The classes of nodes, NO_TAG where they have none."""
        for tree in trees:
            strange = next((label for label in tree.labels if label not in self.numbers), None)
            if strange is not None:
                raise UserError(f"{tree.place}: the {split} split has the label {strange!r}; the train split has none.")
        return Ragged(torch.tensor([self.numbers[each] for tree in trees for each in tree.labels]), _lengths(trees))

    def _specify(self, labels: Ragged, roots: Tensor) -> DataSpec:
        longest, last = int(max(x.lengths.max() for x, _ in self._splits.values())), len(self.vocabulary) - 1
        if self.config.flat:
            inputs = TensorSpec((longest,), torch.int64, 0, last)
            return DataSpec(inputs, target=self.classes.fitted(roots.numpy()), vocabulary=self.vocabulary)
        labelled = labels.values[labels.values != NO_TAG]
        target = TreeClasses(self.classes.fitted(labelled.numpy()), len(labelled) / len(labels))
        return DataSpec(TreeSpec((longest, 4), torch.int64, 0, last), target=target, vocabulary=self.vocabulary)


def _divided(corpus: TreeCorpus, config: TreeData) -> dict[str, list[Tree]]:
    """The splits that there are, and those that are held out of training."""
    splits = dict(corpus.splits)
    for split, share in (("test", config.test), ("val", config.validation)):
        if split not in splits:
            whole = splits["train"]
            roots: Array = np.unique([tree.labels[-1] for tree in whole], return_inverse=True)[1]
            rest, out = held_out(roots, max(1, round(share * len(whole))), config.split_seed)
            splits["train"], splits[split] = ([whole[i] for i in index] for index in (rest, out))
    for split, trees in splits.items():
        if not trees:
            raise UserError(f"the {split} split of corpus {config.name!r} is empty.")
    return splits


def _classes(corpus: TreeCorpus) -> tuple[Classes, dict[str, int]]:
    """The classes of labels, and each written label's, NO_TAG where it stands for none; numbers in their order."""
    written = sorted({label for tree in corpus.splits["train"] for label in tree.labels} - {NO_LABEL})
    in_order = sorted(written, key=lambda label: (not label.isdecimal(), int(label) if label.isdecimal() else 0))
    names = corpus.label_names or {label: label for label in in_order}
    classes = tuple(dict.fromkeys(name for name in names.values() if name is not None))
    numbers = {label: NO_TAG if name is None else classes.index(name) for label, name in names.items()}
    return Classes(len(classes), classes), {**numbers, NO_LABEL: NO_TAG}


def _roots(labels: Ragged) -> Tensor:
    """The classes (N,) of trees' last nodes."""
    return labels.values[labels.starts + labels.lengths - 1]


def _lengths(trees: Sequence[Tree]) -> Tensor:
    return torch.tensor([len(tree.words) for tree in trees])


def _joined(columns: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(columns))
