"""Trees as data: what minibatches hold, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lab.data.language.tree_files import TreeCorpus, read_tree
from lab.data.language.trees import TreeData, TreeModule
from lab.data.language.vocabulary import PAD, UNKNOWN
from lab.data.resident import Batch
from lab.data.spec import TreeSpec
from lab.data.targets import NO_TAG, Classes, TreeClasses
from lab.errors import UserError

TRAIN = ["(3 (2 a) (4 (3 b) (2 a)))", "(1 c)", "(2 (2 a) (1 b) (3 c))", "(4 (3 b) (2 c))"]


def module_of(seed: int = 0, **options: Any) -> TreeModule:
    corpus = TreeCorpus({split: [read_tree(text, split) for text in TRAIN] for split in ("train", "val", "test")})
    return TreeModule(TreeData(batch_size=2, batches_per_step=3, **options), corpus, seed)


def drawn(module: TreeModule, chunks: int) -> list[Batch]:
    return [batch for _ in range(chunks) for batch in module.next_chunk()]


def test_a_minibatch_holds_nodes_and_their_classes() -> None:
    module = module_of()
    (batch,) = module.batches("val")
    a, b, c = module.vocabulary.numbers(["a", "b", "c"])
    assert batch.x.shape == (4, 5, 4)
    assert batch.x[0].tolist() == [[a, 0, 0, 0], [b, 0, 0, 0], [a, 0, 0, 0], [PAD, 1, 2, 1], [PAD, 0, 3, 2]]
    assert batch.x[1].tolist() == [[c, 0, 0, 0], *[[0] * 4] * 4]
    assert batch.x[2].tolist() == [[a, 0, 0, 0], [b, 0, 0, 0], [PAD, 0, 1, 1], [c, 0, 0, 0], [PAD, 2, 3, 2]]
    no = NO_TAG
    assert batch.y.tolist() == [[1, 2, 1, 3, 2], [0, no, no, no, no], [1, 0, no, 2, 1], [2, 1, 3, no, no]]
    classes = Classes(4, ("1", "2", "3", "4"), (2, 5, 4, 2))
    assert module.spec.target == TreeClasses(classes, 13 / 4)
    assert isinstance(module.spec.inputs, TreeSpec)
    assert module.spec.inputs == TreeSpec((5, 4), torch.int64, 0, len(module.vocabulary) - 1)


def test_a_flat_reader_gets_the_same_trees_in_the_same_order() -> None:
    tree, flat = module_of(seed=3), module_of(seed=3, flat=True)
    assert flat.spec.target == Classes(4, ("1", "2", "3", "4"), (1, 1, 1, 1))
    assert flat.spec.inputs.shape == (3,)  # type: ignore[union-attr]
    for one, other in zip(drawn(tree, 4), drawn(flat, 4), strict=True):
        for x, y, words, label in zip(one.x, one.y, other.x, other.y, strict=True):
            assert x[x[:, 0] != PAD, 0].tolist() == words[words != PAD].tolist()
            assert int(y[y != NO_TAG][-1]) == int(label)


@pytest.mark.parametrize("flat", [False, True])
def test_the_state_resumes_the_stream(flat: bool) -> None:
    whole, module = drawn(module_of(flat=flat), 6), module_of(flat=flat)
    first, again = drawn(module, 2), module_of(flat=flat)
    again.load_state_dict(module.state_dict())
    assert module.digest() == again.digest()
    for one, other in zip(whole, first + drawn(again, 4), strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)


def test_trees_of_ones_own_are_read_with_labels_and_without(tmp_path: Path) -> None:
    module = module_of()
    path = tmp_path / "mine.txt"
    path.write_text("((a) ((new) (b)))\n\n(3 (2 a) (4 (3 new) (2 b)))\n")
    first, second = module.items([str(path)])
    assert (first.name, second.name) == (f"{path}:1", f"{path}:3")
    assert torch.equal(first.x, second.x)
    a, b = module.vocabulary.numbers(["a", "b"])
    assert first.x[:, 0].tolist() == [a, UNKNOWN, b, PAD, PAD]
    (text,) = module_of(flat=True).texts(["((a) ((new) (b)))"])
    assert text.x.tolist() == first.x[:3, 0].tolist()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("((a) (b)", "a bracket is not closed"),
        ("((a b) (c))", "'a' is no label of the run's trees (1, 2, 3, 4); it may be left out, and each word needs"),
        ("a b", "'a' stands outside of the tree"),
        (" ", "there is no tree"),
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_texts_that_are_no_trees_are_refused(text: str, part: str, flat: bool) -> None:
    with pytest.raises(UserError) as caught:
        list(module_of(flat=flat).texts([text]))
    assert part in str(caught.value)


def test_splits_are_held_out_of_a_single_file(tmp_path: Path) -> None:
    path = tmp_path / "trees.txt"
    path.write_text("".join(f"({i % 2 + 9} (9 w{i}) (10 v))\n" for i in range(40)))
    module = TreeData(name=str(path), batch_size=4).build(0)
    assert [module.num_samples(split) for split in ("train", "val", "test")] == [32, 4, 4]  # type: ignore[arg-type]
    assert module.classes.names == ("9", "10")
    for split in ("val", "test"):
        (batch,) = module.batches(split)  # type: ignore[arg-type]
        assert batch.y[:, 2].bincount().tolist() == [2, 2]


def test_a_label_that_training_lacks_is_refused_with_its_place(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.txt").write_text("(1 (0 a) (1 b))\n" * 2)
    (tmp_path / "dev.txt").write_text("(1 (0 a) (1 b))\n(1 (7 a) (1 b))\n")
    with pytest.raises(UserError) as caught:
        TreeData(name=str(tmp_path), batch_size=2).build(0)
    place = f"{str(tmp_path / 'dev.txt')!r}, line 2"
    assert str(caught.value) == f"{place}: the val split has the label '7'; the train split has none."


def test_fewer_trees_than_a_minibatch_are_refused() -> None:
    corpus = TreeCorpus({split: [read_tree(text, split) for text in TRAIN] for split in ("train", "val", "test")})
    with pytest.raises(UserError, match=r"4 training samples, fewer than data\.batch_size=5"):
        TreeModule(TreeData(batch_size=5), corpus, 0)
    with pytest.raises(UserError, match=r"unknown corpus of trees \(or path\) 'expresions'\. Did you mean"):
        TreeData(name="expresions").build(0)
