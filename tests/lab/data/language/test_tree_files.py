"""Trees in brackets: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from lab.data.language.tree_corpora import expressions, sst, sst_2
from lab.data.language.tree_files import NO_LABEL, Tree, read_tree, read_tree_corpus, read_trees
from lab.errors import UserError

ROCK = "(3 (2 (2 The) (2 Rock)) (4 (3 is) (2 great)))"


class Node(NamedTuple):
    """A node with what is below it, without numbers."""

    label: str
    word: str = ""
    children: tuple[Node, ...] = ()


def node(tree: Tree, number: int = -1) -> Node:
    if tree.words[number]:
        return Node(tree.labels[number], tree.words[number])
    children = (node(tree, tree.left[number]), node(tree, tree.right[number]))
    return Node(tree.labels[number], "", children)


def test_a_tree_is_its_nodes_in_post_order() -> None:
    tree = read_tree(ROCK, "here")
    assert tree.words == ["The", "Rock", "", "is", "great", "", ""]
    assert tree.left == [0, 0, 0, 0, 0, 3, 2]
    assert tree.right == [0, 0, 1, 0, 0, 4, 5]
    assert tree.heights == [0, 0, 1, 0, 0, 1, 2]
    assert tree.labels == ["2", "2", "2", "3", "2", "4", "3"]
    assert tree.leaves == ["The", "Rock", "is", "great"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(2 word)", Node("2", "word")),
        ("(3 (2 word))", Node("3", "word")),
        ("(4 (3 (2 (1 a) (2 b))))", Node("4", "", (Node("1", "a"), Node("2", "b")))),
        (
            "(4 (1 a) (2 b) (3 c) (0 d))",
            Node(
                "4",
                "",
                (
                    Node(NO_LABEL, "", (Node(NO_LABEL, "", (Node("1", "a"), Node("2", "b"))), Node("3", "c"))),
                    Node("0", "d"),
                ),
            ),
        ),
        ("(1 2)", Node("1", "2")),
        ("(1(2 8\u00a01/2)(3\tb))", Node("1", "", (Node("2", "8\u00a01/2"), Node("3", "b")))),
    ],
)
def test_chains_are_collapsed_and_many_children_taken_together(text: str, expected: Node) -> None:
    assert node(read_tree(text, "here")) == expected


def test_labels_may_be_left_out_where_nothing_is_learned_from_them() -> None:
    tree = read_tree("((a) (2 (1 b) (c)))", "here", labelled=False)
    assert tree.labels == [NO_LABEL, "1", NO_LABEL, "2", NO_LABEL]
    assert read_tree("((2 a))", "here", labelled=False).labels == ["2"]


def test_a_very_deep_tree_is_read() -> None:
    depth = 5_000
    tree = read_tree("(1 (2 a) " * depth + "(2 b)" + ")" * depth, "here")
    assert len(tree.words) == 2 * depth + 1
    assert tree.heights[-1] == depth


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("(3 (2 The) (2 Rock)", "a bracket is not closed"),
        ("(3 (2 (1 The) (2 Rock", "3 brackets are not closed"),
        ("(2 The))", "a bracket closes that was not opened"),
        ("(2 The) (2 Rock)", "'(' stands outside of the tree"),
        ("The Rock", "'The' stands outside of the tree"),
        ("(3 (The) (2 Rock))", "the node 'The' has no label"),
        ("((2 The) (2 Rock))", "the node over others has no label"),
        ("(3 (2 The Rock) (2 is))", "'2 The Rock' are several words; each needs brackets of its own"),
        ("(3 (2 The) Rock)", "'Rock' stands behind a bracket"),
        ("(3 () (2 Rock))", "a pair of brackets is empty"),
    ],
)
def test_what_is_no_tree_is_one_sentence_with_file_and_line(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "trees.txt"
    path.write_text(f"{ROCK}\n\n{text}\n")
    with pytest.raises(UserError) as caught:
        read_trees(path)
    assert str(caught.value).startswith(f"{str(path)!r}, line 3: ")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "part"), [("", "is empty"), ("\n \n", "holds no trees")])
def test_a_file_without_trees_is_refused(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "trees.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=part) as caught:
        read_trees(path)
    assert str(path) in str(caught.value)


def test_names_of_files_tell_the_split(tmp_path: Path) -> None:
    for name, num in (("train", 3), ("dev", 2), ("test", 1)):
        (tmp_path / f"{name}.txt").write_text(f"{ROCK}\n" * num)
    (tmp_path / ".hidden").write_text("no tree")
    splits = read_tree_corpus(tmp_path).splits
    assert {split: len(trees) for split, trees in splits.items()} == {"train": 3, "val": 2, "test": 1}
    assert splits["val"][1].place == f"{str(tmp_path / 'dev.txt')!r}, line 2"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no files of trees"):
        read_tree_corpus(tmp_path / "empty")


def test_the_treebank_has_five_classes_or_two(tmp_path: Path) -> None:
    (tmp_path / "sst").mkdir()
    for name in ("train", "dev", "test"):
        (tmp_path / "sst" / f"{name}.txt").write_text(f"{ROCK}\n(2 (2 so) (1 so))\n(0 (0 bad) (2 film))\n")
    assert [tree.labels[-1] for tree in sst(tmp_path).splits["val"]] == ["3", "2", "0"]
    two = sst_2(tmp_path)
    assert [tree.labels[-1] for tree in two.splits["test"]] == ["3", "0"]
    assert [two.label_names[label] for label in "01234"] == ["negative", "negative", None, "positive", "positive"]
    with pytest.raises(UserError, match="set LAB_DATA"):
        sst(tmp_path / "nowhere")


def test_expressions_have_their_values_at_each_node() -> None:
    corpus = expressions(Path())
    assert [len(corpus.splits[split]) for split in ("train", "val", "test")] == [10_000, 1_000, 2_000]
    assert len({" ".join(tree.leaves) for trees in corpus.splits.values() for tree in trees}) == 13_000
    for tree in corpus.splits["test"][:500]:
        values: list[str] = []  # an operation, with its first operand or without, or a value
        for word, left, right, label in zip(tree.words, tree.left, tree.right, tree.labels, strict=True):
            if word:
                values.append(word)
            elif len(values[left]) == 1:
                values.append(values[left] + values[right])
            else:
                operation, first = values[left]
                values.append(str(eval(f"({first} {operation} {values[right]}) % 5")))
            assert label == (values[-1] if values[-1].isdecimal() else NO_LABEL)
    assert " ".join(corpus.splits["train"][0].leaves).startswith("+ * - + + * 4 1 * 2 0 * 4")
