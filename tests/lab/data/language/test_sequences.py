"""Corpora as minibatches: what they hold, how they are split, cut and continued."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.data.language.corpus import Corpus, Examples
from lab.data.language.puzzles import copy_20
from lab.data.language.sequences import SequenceData, SequenceModule
from lab.data.language.vocabulary import END, UNKNOWN
from lab.data.targets import NO_TAG, Classes, RealValues, Sentence, Tags
from lab.errors import UserError

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h"]


def module(corpus: Corpus, **options: object) -> SequenceModule:
    return SequenceModule(SequenceData.model_validate({"name": "mine", "batch_size": 2, **options}), corpus, seed=0)


def corpus(num: int = 20) -> Corpus:
    texts = [" ".join(WORDS[: 1 + i % 8]) for i in range(num)]
    return Corpus(Examples(texts, np.array(["odd" if i % 2 else "even" for i in range(num)])))


def test_labels_make_classes_and_texts_tokens() -> None:
    data = module(corpus())
    assert data.spec.target == Classes(2, ("even", "odd"), (8, 8))
    assert (data.spec.inputs.shape, data.spec.inputs.high) == ((8,), 11)  # type: ignore[union-attr]
    assert {split: data.num_samples(split) for split in ("train", "val", "test")} == {"train": 16, "val": 2, "test": 2}  # type: ignore[arg-type]
    (batch, *_) = data.next_chunk()
    assert (batch.x.dtype, batch.y.dtype, len(batch.x)) == (torch.int64, torch.int64, 2)
    texts = [data.vocabulary.text(row) for batch in data.batches("train") for row in batch.x.tolist()]  # type: ignore[union-attr]
    assert set(texts) <= set(corpus().train.x)  # type: ignore[arg-type]


def test_numbers_make_real_values_and_sequences_of_numbers_have_no_words() -> None:
    x = [np.full((3, 2), i, np.float32) for i in range(20)]
    data = module(Corpus(Examples(x, np.arange(20) + 0.5)))
    assert isinstance(data.spec.target, RealValues)
    assert (data.spec.inputs.shape, data.spec.vocabulary) == ((3, 2), None)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="the sequences of 'mine' are numbers, not words"):
        list(data.texts(["a b"]))


def test_sequences_of_numbers_are_of_one_length() -> None:
    x = [np.zeros((3 + i % 2, 2), np.float32) for i in range(20)]
    with pytest.raises(UserError, match="sequences of numbers in 'mine' have from 3 to 4 steps; they need as many"):
        module(Corpus(Examples(x, np.arange(20) + 0.5)))


def test_tags_are_padded_with_no_tag() -> None:
    words = [["a"], ["a", "b", "c"]] * 10
    data = module(Corpus(Examples(words, [["X"] * len(each) for each in words]), meaning="tags"), batch_size=16)
    assert data.spec.target == Tags(("X",), 2.0)
    (batch, *_) = data.next_chunk()
    assert torch.equal(batch.y == NO_TAG, batch.x == 0)
    test = Examples([["a"]], [["Y"]])
    with pytest.raises(UserError, match="the test split of 'mine' has the tag 'Y'; the train split has none"):
        module(Corpus(Examples(words, [["X"] * len(each) for each in words]), test, meaning="tags"))


def test_sentences_end_and_know_the_words_of_training_alone() -> None:
    pairs = Examples(["a b"] * 10, ["x y"] * 10)
    data = module(Corpus(pairs, Examples(["a z"], ["x q"]), Examples(["b"], ["y"]), meaning="sentences"))
    assert isinstance(data.spec.target, Sentence)
    vocabulary = data.spec.target.vocabulary
    assert vocabulary.symbols[4:] == ("x", "y")
    assert (data.spec.target.mean_length, data.spec.target.longest) == (3.0, 3)
    (batch,) = data.batches("test")
    assert batch.y.tolist() == [[4, UNKNOWN, END]]
    assert batch.x.tolist() == [[4, UNKNOWN]]


def test_what_is_too_long_is_cut_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lab"):
        data = module(corpus(), longest=3)
    assert "11 sequences of 'mine' are longer than data.longest=3; they are cut" in caplog.text
    assert data.spec.inputs.shape == (3,)  # type: ignore[union-attr]
    assert data.encode("a b c d").tolist() == data.encode("a b c").tolist()
    pairs = Corpus(Examples(["a"] * 20, ["x y z"] * 20), meaning="sentences")
    (batch, *_) = module(pairs, longest=2).next_chunk()
    assert batch.y.tolist() == [[4, END]] * 2


def test_characters_of_words_are_read_beside_them() -> None:
    data = module(corpus(), characters=4)
    assert data.spec.inputs.shape == (8, 5)  # type: ignore[union-attr]
    word, unknown = data.encode(["b", "abcdefg"])
    assert word.tolist() == [5, ord("b"), 0, 0, 0]
    assert unknown.tolist() == [UNKNOWN, *map(ord, "abfg")]


def test_a_module_goes_on_where_its_state_says() -> None:
    one, other = module(corpus()), module(corpus())
    for _ in range(5):
        list(one.next_chunk())
    other.load_state_dict(one.state_dict())
    for first, second in zip(one.next_chunk(), other.next_chunk(), strict=True):
        assert torch.equal(first.x, second.x)
        assert torch.equal(first.y, second.y)
    assert one.digest() == module(corpus()).digest() != module(corpus(30)).digest()


def test_too_few_sequences_are_refused() -> None:
    with pytest.raises(UserError, match=r"corpus 'mine' has 16 training samples, fewer than data.batch_size=17"):
        module(corpus(), batch_size=17)


def test_texts_and_lines_of_files_are_read_for_predictions(tmp_path: Path) -> None:
    data = module(corpus())
    path = tmp_path / "lines.txt"
    path.write_text("a b\n\nc\n", encoding="utf-8")
    names = [item.name for item in data.items([str(path)])]
    assert names == [f"{path}:1", f"{path}:3"]
    assert [item.x.tolist() for item in data.texts(["a b"])] == [data.encode("a b").tolist()]
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(UserError, match="holds no text"):
        list(data.items([str(path)]))
    with pytest.raises(UserError, match="an empty text says nothing"):
        list(data.texts([" "]))


def test_the_copy_problem_is_symbols_blanks_and_a_question() -> None:
    train = copy_20(Path()).train
    words, tags = list(train.x[0]), list(train.y[0])
    assert len(words) == len(tags) == 40
    assert (words[:10], words[10:29], words[29], words[30:]) == (tags[30:], ["_"] * 19, "?", ["_"] * 10)
    assert set(tags[:30]) == {"_"}


def test_how_files_are_read_is_not_said_of_a_corpus_by_name() -> None:
    with pytest.raises(
        UserError, match=r"data\.languages says how files are read; corpus 'reversed' is read in its own"
    ):
        SequenceData(name="reversed", languages=("de", "en")).build(0)
