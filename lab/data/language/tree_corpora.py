"""The corpora of trees by name: the Stanford Sentiment Treebank below LAB_DATA, and expressions, which are made."""

from __future__ import annotations

from pathlib import Path
from random import Random

from lab.data.language.tree_files import NO_LABEL, Tree, TreeCorpus, read_tree_corpus, register_trees
from lab.errors import UserError

_FIVE = {"0": "very negative", "1": "negative", "2": "neutral", "3": "positive", "4": "very positive"}
_TWO = {"0": "negative", "1": "negative", "2": None, "3": "positive", "4": "positive"}
_SIZES = {"train": 10_000, "val": 1_000, "test": 2_000}
_MODULUS = 5
_OPERATIONS = ("+", "-", "*")
_DEPTHS = (2, 6)


@register_trees("sst")
def sst(root: Path) -> TreeCorpus:
    """Stanford Sentiment Treebank (Socher et al. 2013): 11,855 sentences of reviews, a sentiment at each node.

    Five classes; from train.txt, dev.txt and test.txt in LAB_DATA.
    """
    return TreeCorpus(_sst(root), _FIVE)


@register_trees("sst-2")
def sst_2(root: Path) -> TreeCorpus:
    """Stanford Sentiment Treebank, two classes: neutral sentences are left out, neutral nodes have no label."""
    splits = {split: [tree for tree in trees if _TWO.get(tree.labels[-1])] for split, trees in _sst(root).items()}
    return TreeCorpus(splits, _TWO)


@register_trees("expressions")
def expressions(root: Path) -> TreeCorpus:
    """13,000 expressions of sums, differences and products modulo 5, 2 to 6 deep, with each one's value; no file.

    All differ, and are always the same. Operations stand before their operands, so that words without brackets say
    what is meant, too; but their reader has to find out by itself what belongs together.
    """
    rng = Random(0)
    known: set[str] = set()

    def drawn(place: str) -> Tree:
        while True:
            tree = Tree([], [], [], [], [], place)
            _add_expression(tree, _DEPTHS[0] + _below(_DEPTHS[1] - _DEPTHS[0] + 1, rng), rng)
            words = " ".join(tree.leaves)
            if words not in known:
                known.add(words)
                return tree

    return TreeCorpus({split: [drawn(f"{split} {i}") for i in range(num)] for split, num in _SIZES.items()})


def _add_expression(tree: Tree, depth: int, rng: Random) -> tuple[int, int]:
    """Add an expression whose nodes are labelled with their values, and return its node and its value.

    As (v (operation) (a ...) (b ...)), binarized: an operation has no value, nor has one with its first operand alone.
    """
    if not depth:
        value = _below(_MODULUS, rng)
        return tree.add(str(value), str(value)), value
    depths = [depth - 1, _below(depth, rng)]
    if _below(2, rng):
        depths.reverse()
    operation = _OPERATIONS[_below(len(_OPERATIONS), rng)]
    node = tree.add(NO_LABEL, operation)
    first, a = _add_expression(tree, depths[0], rng)
    node = tree.add(NO_LABEL, "", node, first)
    second, b = _add_expression(tree, depths[1], rng)
    value = {"+": a + b, "-": a - b, "*": a * b}[operation] % _MODULUS
    return tree.add(str(value), "", node, second), value


def _below(num: int, rng: Random) -> int:
    """A number in [0, num), the same in all versions of Python."""
    return int(rng.random() * num)


def _sst(root: Path) -> dict[str, list[Tree]]:
    folder = root / "sst"
    if not folder.is_dir():
        raise UserError(f"there is no folder {str(folder)!r}; set LAB_DATA or data.root to the folder that holds it.")
    return read_tree_corpus(folder).splits
