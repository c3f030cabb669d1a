"""Sequences of words, characters or numbers, with a label, with tags, or with another sequence to be told.

`data.name` is a registered corpus (`lab list datasets`) or the path of one, itself or below `root`, which is
`data.root`, else the environment variable LAB_DATA, else `./data` (readers: corpus_files.py). Vocabularies are those of
the training split. B batch, T the longest sequence of a batch, C characters of a word.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from lab.data.datasets import load_named
from lab.data.items import Item, lines_of
from lab.data.language.corpus import CORPORA, Corpus, Examples, Text
from lab.data.language.corpus_files import read_corpus, read_parallel
from lab.data.language.ragged import Ragged
from lab.data.language.ragged_module import Held, RaggedModule
from lab.data.language.vocabulary import END, Unit, Vocabulary, cut
from lab.data.spec import DataSpec, TensorSpec
from lab.data.splits import held_out, tell_absent
from lab.data.targets import Labelled, Sentence, Tags, TargetKind, read_targets
from lab.errors import UserError
from lab.experiment import DataConfig, Shared

log = logging.getLogger("lab")


class SequenceData(DataConfig):
    """Sequences, resident on the device."""

    kind: Literal["sequences"] = "sequences"
    name: str = "reversed"
    """a registered corpus, a file or a folder"""
    root: str | None = None
    """folder of data files; by default LAB_DATA, else ./data"""
    languages: tuple[str, str] | None = None
    """endings of the files of a folder whose lines belong together, what is read and what is told: [de,en]"""
    text: str | None = None
    """the column of a table that holds the texts; by default text, sentence, review or document, else the first"""
    target: str | None = None
    """the column of a table that is to be predicted; by default the last"""
    target_kind: TargetKind = "auto"
    """what labels are: auto takes names and whole numbers for classes, other numbers for real"""
    tags: PositiveInt | None = None
    """the column of tagged words that holds the tags; by default parts of speech of CoNLL-U, else the last"""
    unit: Unit = "words"
    """what texts are cut into"""
    punctuation: bool = False
    """cut words at punctuation marks, which are words themselves, not at spaces alone"""
    lower: bool = False
    """take capitals for small letters"""
    least: PositiveInt = 1
    """how often a word must occur in training to be known"""
    vocabulary: PositiveInt | None = None
    """how many words are known at most, the most frequent ones"""
    characters: NonNegativeInt = 0
    """so many characters of each word are read beside it: its first ones and its last ones"""
    longest: PositiveInt = 200
    """what is longer is cut"""
    batch_size: Annotated[PositiveInt, Shared("equal")] = 32
    batches_per_step: PositiveInt = 8
    """minibatches in one training step; more of them, less overhead"""
    validation: float = Field(default=0.1, gt=0, lt=0.5)
    """share of the training split held out for validation, of each class, where the corpus has none"""
    test: float = Field(default=0.1, gt=0, lt=0.5)
    """share of it held out for testing, likewise"""
    split_seed: NonNegativeInt = 0
    """which sequences are held out"""

    def build(self, seed: int) -> SequenceModule:
        """Load the corpus. Raises UserError for one that is absent or damaged, or too small."""
        for field in ("languages", "text", "target", "tags"):
            if getattr(self, field) is not None and CORPORA.get(self.name) is not None:
                raise UserError(f"data.{field} says how files are read; corpus {self.name!r} is read in its own way.")
        return SequenceModule(self, load_named(CORPORA, self.name, self.root, self._read), seed)

    def _read(self, path: Path) -> Corpus:
        if self.languages is not None:
            return read_parallel(path, self.languages)
        return read_corpus(path, self.text, self.target, self.tags)


class SequenceModule(RaggedModule):
    """x (B, T) int64 tokens filled with PAD (with data.characters (B, T, 1 + C)), or (B, T, D) float32 numbers.

    y is as the target says.
    """

    def __init__(self, config: SequenceData, corpus: Corpus, seed: int) -> None:
        super().__init__()
        self.config, self.batches_per_step = config, config.batches_per_step
        splits = _divided(corpus, config)
        self.vocabulary = self._vocabulary(splits["train"].x)  # of inputs; None of numbers
        x = {split: self._inputs(examples.x) for split, examples in splits.items()}
        y, target = self._targets({split: examples.y for split, examples in splits.items()}, corpus)
        self._tell_cut(x)
        self._splits: dict[str, Held] = {
            split: (self._shortened(x[split]), self._shortened(held) if isinstance(held, Ragged) else held)
            for split, held in y.items()
        }
        self.spec = DataSpec(self._input_spec(), target=target, vocabulary=self.vocabulary)
        self.order = self._ordered(config.name, config.batch_size, seed)

    def items(self, sources: Sequence[str]) -> Iterator[Item]:
        """Texts, one a line of a file or of standard input."""
        for source, number, line in lines_of(sources):
            yield Item(f"{source}:{number}", self.encode(line))

    def texts(self, texts: Sequence[str]) -> Iterator[Item]:
        for text in texts:
            if not text.strip():
                raise UserError("an empty text says nothing.")
            yield Item(text, self.encode(text))

    def encode(self, text: Text) -> Tensor:
        """A text as inputs (T,) or (T, 1 + C), without their batch dimension.

        Raises UserError where inputs are numbers.
        """
        if self.vocabulary is None:
            raise UserError(f"the sequences of {self.config.name!r} are numbers, not words.")
        encoded = self._inputs([text])
        return self._shortened(encoded).values

    def _vocabulary(self, sequences: Sequence[Any]) -> Vocabulary | None:
        if not isinstance(sequences[0], str | list | tuple):
            return None
        words = (_words(text, self.config) for text in sequences)
        return _vocabulary_of(words, self.config)

    def _inputs(self, sequences: Sequence[Any]) -> Ragged:
        if self.vocabulary is None:
            lengths = [len(each) for each in sequences]
            if min(lengths) != max(lengths):
                raise UserError(
                    f"sequences of numbers in {self.config.name!r} have from {min(lengths)} to {max(lengths)} steps; "
                    f"they need as many each."
                )
            return Ragged.of(sequences)
        words = [_words(text, self.config) for text in sequences]
        number = self.vocabulary.numbers
        num = self.config.characters
        if not num:
            return Ragged.of([number(each) for each in words])
        return Ragged.of(
            [[[one, *_characters(word, num)] for one, word in zip(number(each), each, strict=True)] for each in words]
        )

    def _input_spec(self) -> TensorSpec:
        train = self._splits["train"][0]
        longest = min(int(max(held[0].lengths.max() for held in self._splits.values())), self.config.longest)
        shape = (longest, *train.values.shape[1:])
        if self.vocabulary is None:
            return TensorSpec(shape)
        return TensorSpec(shape, torch.int64, 0, len(self.vocabulary) - 1)

    def _targets(
        self, y: dict[str, Any], corpus: Corpus
    ) -> tuple[dict[str, Ragged | Tensor], Labelled | Tags | Sentence]:
        name, config = self.config.name, self.config
        if corpus.meaning == "labels":
            labels, target = read_targets(y, name, config.target_kind, corpus.label_names)
            tell_absent(target, labels, name)
            return {split: torch.from_numpy(each) for split, each in labels.items()}, target.fitted(labels["train"])
        if corpus.meaning == "tags":
            names = tuple(sorted({tag for tags in y["train"] for tag in tags}))
            numbers = {tag: number for number, tag in enumerate(names)}
            for split, sequences in y.items():
                strange = next((tag for tags in sequences for tag in tags if tag not in numbers), None)
                if strange is not None:
                    raise UserError(f"the {split} split of {name!r} has the tag {strange!r}; the train split has none.")
            tags = {split: Ragged.of([[numbers[t] for t in tags] for tags in held]) for split, held in y.items()}
            return {**tags}, Tags(names, float(tags["train"].lengths.float().mean()))
        vocabulary = _vocabulary_of((_words(text, config) for text in y["train"]), config)
        told_of = partial(_told, vocabulary=vocabulary, config=config)
        sentences = {split: Ragged.of([told_of(text) for text in texts]) for split, texts in y.items()}
        longest = min(int(max(held.lengths.max() for held in sentences.values())), config.longest)
        mean = float(sentences["train"].lengths.float().mean())
        return {**sentences}, Sentence(vocabulary, mean, longest)

    def _shortened(self, held: Ragged) -> Ragged:
        longest = self.config.longest
        if len(held) == 0 or int(held.lengths.max()) <= longest:
            return held
        places = torch.arange(len(held.values)) - held.starts.repeat_interleave(held.lengths)
        return Ragged(held.values[places < longest], held.lengths.clamp(max=longest))

    def _tell_cut(self, x: dict[str, Ragged]) -> None:
        cut_short = int(sum((held.lengths > self.config.longest).sum() for held in x.values()))
        if cut_short:
            log.warning(
                "%d sequences of %r are longer than data.longest=%d; they are cut",
                cut_short,
                self.config.name,
                self.config.longest,
            )


def _divided(corpus: Corpus, config: SequenceData) -> dict[str, Examples]:
    """The splits that there are, and those that are held out of training."""
    splits = {"train": corpus.train}
    for split, share in (("test", config.test), ("val", config.validation)):
        given: Examples | None = getattr(corpus, split)
        if given is None:
            whole = splits["train"]
            num = max(1, round(share * len(whole.x)))
            classes = (
                whole.y if isinstance(whole.y, np.ndarray) and whole.y.ndim == 1 else np.zeros(len(whole.x), np.int64)
            )
            rest, out = held_out(np.unique(classes, return_inverse=True)[1], num, config.split_seed)
            splits["train"], given = whole.chosen(rest), whole.chosen(out)
        splits[split] = given
    for split, examples in splits.items():
        if not len(examples.x):
            raise UserError(f"the {split} split of corpus {config.name!r} is empty.")
    return splits


def _words(text: Text, config: SequenceData) -> list[str]:
    """The words of a text that is not cut yet, or those that it is."""
    return cut(text, config.unit, config.punctuation) if isinstance(text, str) else list(text)


def _told(text: Text, vocabulary: Vocabulary, config: SequenceData) -> list[int]:
    """The tokens of a text that is to be told; END comes last, also where it is cut."""
    return [*vocabulary.numbers(_words(text, config))[: config.longest - 1], END]


def _vocabulary_of(words: Iterator[list[str]], config: SequenceData) -> Vocabulary:
    return Vocabulary.of(
        words,
        config.unit,
        lower=config.lower,
        punctuation=config.punctuation,
        least=config.least,
        most=config.vocabulary,
    )


def _characters(word: str, num: int) -> list[int]:
    """A word as `num` code points, filled with 0: all of them, or its first ones and its last ones."""
    points = [ord(character) for character in word]
    if len(points) > num:
        points = points[: num - num // 2] + points[len(points) - num // 2 :]
    return points + [0] * (num - len(points))
