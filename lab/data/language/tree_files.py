"""Trees in brackets, one a line, as of the Stanford Sentiment Treebank: (3 (2 The) (4 (3 great) (2 film))).

A pair of brackets holds a label and a word, or a label and other pairs. Sentences about what is wrong name the file and
the line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from lab.data.datasets import DataSet
from lab.data.language.corpus_files import by_split, lines_of
from lab.errors import UserError
from lab.registry import Registry

_PARTS = re.compile(r"[()]|[^ \t()]+")
"""brackets, and what stands between them and spaces; in the treebank a space that does not break is part of a word"""
NO_LABEL = ""


class Tree(NamedTuple):
    """A binary tree of M nodes in post-order: children before parents, left before right, the root last.

    words: of leaves; "" of inner nodes
    left, right: the numbers of inner nodes' children; 0 of leaves
    heights: 0 of leaves; of inner nodes 1 more than the higher child's
    labels: as they are written; NO_LABEL of nodes that have none
    place: where it is written
    """

    words: list[str]
    left: list[int]
    right: list[int]
    heights: list[int]
    labels: list[str]
    place: str

    @property
    def leaves(self) -> list[str]:
        """Its words in order."""
        return [word for word in self.words if word]

    def add(self, label: str, word: str = "", left: int = 0, right: int = 0) -> int:
        """Add a leaf with a word, or an inner node over two others, and return its number."""
        self.heights.append(0 if word else 1 + max(self.heights[left], self.heights[right]))
        self.words.append(word)
        self.left.append(left)
        self.right.append(right)
        self.labels.append(label)
        return len(self.words) - 1


class TreeCorpus(NamedTuple):
    """Trees by split, `train` among them; where there is no `val` or `test`, a part of `train` is held out.

    `label_names` are the names of labels as they are written, None where they are taken for none; by default each is
    its own name.
    """

    splits: dict[str, list[Tree]]
    label_names: Mapping[str, str | None] = {}


TREES: Registry[DataSet[TreeCorpus]] = Registry("register_trees", "corpus of trees", "datasets")


def register_trees(name: str) -> Callable[[DataSet[TreeCorpus]], DataSet[TreeCorpus]]:
    """Register a function `root -> TreeCorpus` as the corpus of trees `name`. Raises ValueError for a taken name."""
    return TREES.register(name)


def read_tree_corpus(path: Path) -> TreeCorpus:
    """A file of trees, or a folder of files whose names tell the split (train.txt, dev.txt, test.txt)."""
    files = [path]
    if path.is_dir():
        files = [each for each in sorted(path.iterdir()) if each.is_file() and each.name[0] not in "._"]
        if not files:
            raise UserError(f"{str(path)!r} holds no files of trees.")
    return TreeCorpus({split: read_trees(file) for split, file in by_split(files)})


def read_trees(path: Path) -> list[Tree]:
    """The trees of a file, one a line, each node with a label."""
    trees = [read_tree(line, f"{str(path)!r}, line {number}") for number, line in lines_of(path)]
    if not trees:
        raise UserError(f"{str(path)!r} holds no trees.")
    return trees


class _Open(NamedTuple):
    """What stands so far in a pair of brackets that is not closed: a label, a word; and numbers of nodes."""

    atoms: list[str]
    children: list[int]


def read_tree(text: str, place: str, labelled: bool = True) -> Tree:
    """A tree in brackets.

    A node with a single child is that child, with the upper label. Of more than two children the first ones are taken
    together, two by two from the left, by nodes without a label.

    Args:
        place: where the text stands, for messages.
        labelled: each node needs a label.

    Raises UserError for what is no tree.
    """
    tree = Tree([], [], [], [], [], place)
    pairs: list[_Open] = []
    for part in _PARTS.findall(text):
        if not pairs and (part != "(" or tree.words):
            what = "a bracket closes that was not opened" if part == ")" else f"{part!r} stands outside of the tree"
            raise UserError(f"{place}: {what}.")
        if part == "(":
            if pairs and len(pairs[-1].children) == 2:
                _unite(tree, pairs[-1], NO_LABEL)
            pairs.append(_Open([], []))
        elif part == ")":
            node = _closed(tree, pairs.pop(), labelled)
            if pairs:
                pairs[-1].children.append(node)
        elif pairs[-1].children:
            raise UserError(f"{place}: {part!r} stands behind a bracket; each word needs brackets of its own.")
        else:
            pairs[-1].atoms.append(part)
    if pairs or not tree.words:
        what = f"{len(pairs)} brackets are not closed" if len(pairs) > 1 else "a bracket is not closed"
        raise UserError(f"{place}: {what if pairs else 'there is no tree'}.")
    return tree


def _closed(tree: Tree, pair: _Open, labelled: bool) -> int:
    """Add what a pair of brackets holds, and return the number of its node."""
    atoms, children = pair
    most = 1 if children else 2
    if len(atoms) > most:
        raise UserError(f"{tree.place}: {' '.join(atoms)!r} are several words; each needs brackets of its own.")
    if not atoms and not children:
        raise UserError(f"{tree.place}: a pair of brackets is empty.")
    if labelled and len(atoms) < most:
        what = "over others" if children else f"{atoms[0]!r}"
        raise UserError(f"{tree.place}: the node {what} has no label.")
    label = atoms[0] if len(atoms) == most else NO_LABEL
    if not children:
        return tree.add(label, atoms[-1])
    if len(children) == 1:
        tree.labels[children[0]] = label or tree.labels[children[0]]
    else:
        _unite(tree, pair, label)
    return children[0]


def _unite(tree: Tree, pair: _Open, label: str) -> None:
    """Put one node in the place of the two children that a pair of brackets holds."""
    pair.children[:] = [tree.add(label, "", *pair.children)]
