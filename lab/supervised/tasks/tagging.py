"""Tagging: a tag for each word of a sequence. B batch, T words, F features, K tags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones.features import FeatureKind, FeatureSpec, Places
from lab.backbones.layers import Share
from lab.data.targets import NO_TAG, Tags
from lab.engine.loss import Loss
from lab.errors import UserError
from lab.pictures import Image, confusion_matrix
from lab.supervised.tasks.base import Task, TaskConfig, precision_recall_f1
from lab.training.answer import Answer
from lab.training.learner import Monitor

_MOST_DRAWN = 40
"""tags of a confusion matrix that a person can read"""


class TaggingConfig(TaskConfig):
    """A tag for each word."""

    kind: Literal["tagging"] = "tagging"
    target: ClassVar = Tags
    features: ClassVar[FeatureKind] = "places"
    dropout: Share = 0.0
    """share of the features that are dropped while it learns"""

    def build(self, target: Tags, features: FeatureSpec) -> Tagging:
        return Tagging(self, target, features)


class Tagging(Task):
    """A linear layer from features of each word to its logits (B, T, K).

    Raises UserError for less than two tags.
    """

    monitor = Monitor("eval/accuracy", "max")
    filling = NO_TAG

    def __init__(self, config: TaggingConfig, target: Tags, features: FeatureSpec) -> None:
        super().__init__()
        if len(target.names) < 2:
            raise UserError("module.task.kind='tagging' needs data of at least two tags.")
        self.target = target
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(features.shapes[0][-1], len(target.names))

    def forward(self, features: Places) -> Places:
        return features._replace(values=self.head(self.dropout(features.values)))

    def loss(self, outputs: Places, y: Tensor) -> Loss:
        """The cross-entropy of a word: the sum over the minibatch by as many words as it has on average, so that the
        gradients of several workers, of whom each has other lengths, have the mean of one."""
        loss = self._cross_entropy(outputs, y).sum() / (len(y) * self.target.mean_length)
        accuracy = (self.predictions(outputs) == y)[y != NO_TAG].float().mean()
        return Loss(loss, {"cross_entropy": loss.detach(), "accuracy": accuracy})

    def predictions(self, outputs: Places) -> Tensor:
        """The most probable tags (B, T); NO_TAG behind a sequence's end."""
        return torch.where(outputs.mask, outputs.values.argmax(2), NO_TAG)

    def per_sample(self, outputs: Places, y: Tensor) -> dict[str, Tensor]:
        right = (self.predictions(outputs) == y).all(1)
        return {"all_right": right, "cross_entropy": self._cross_entropy(outputs, y).sum(1) / (y != NO_TAG).sum(1)}

    def scores(self) -> TagScores:
        return TagScores(self.target)

    def answers(self, predictions: Tensor) -> list[Answer]:
        return [Answer(label, {}) for label in self.truths(predictions)]

    def truths(self, y: Tensor) -> list[str]:
        return [" ".join(self.target.names[tag] for tag in row if tag != NO_TAG) for row in y.tolist()]

    def draw(self, predictions: Tensor, y: Tensor) -> dict[str, Image]:
        num = len(self.target.names)
        if num > _MOST_DRAWN:
            return {}
        pairs = (y * num + predictions)[y != NO_TAG]
        return {
            "confusion": confusion_matrix(torch.bincount(pairs, minlength=num**2).view(num, num), self.target.names)
        }

    def table(self, predictions: Tensor, y: Tensor) -> dict[str, dict[str, float]]:
        num, inside = len(self.target.names), y != NO_TAG
        predicted, true = predictions[inside], y[inside]
        right, told, wanted = (torch.bincount(t, minlength=num) for t in (true[predicted == true], predicted, true))
        return precision_recall_f1(right, told, wanted, self.target.names)

    def _cross_entropy(self, outputs: Places, y: Tensor) -> Tensor:
        """Of each word (B, T); 0 behind a sequence's end."""
        return F.cross_entropy(outputs.values.transpose(1, 2), y, ignore_index=NO_TAG, reduction="none")


class TagScores:
    """The share of words whose tag is right; of tags that mark spans, F1 of spans (Tjong Kim Sang and De Meulder 2003).

    A span counts as right when its beginning, its end and its kind are.
    """

    def __init__(self, target: Tags) -> None:
        self.target = target
        self.num_right = self.num_words = 0
        self.spans = [0, 0, 0]  # right, predicted, true

    def update(self, predictions: Tensor, y: Tensor) -> None:
        inside = y != NO_TAG
        self.num_right += int((predictions == y)[inside].sum())
        self.num_words += int(inside.sum())
        if not self.target.are_spans:
            return
        for predicted, true in zip(predictions.tolist(), y.tolist(), strict=True):
            length = sum(tag != NO_TAG for tag in true)
            sets = [set(spans([self.target.names[tag] for tag in tags[:length]])) for tags in (predicted, true)]
            for i, num in enumerate((len(sets[0] & sets[1]), len(sets[0]), len(sets[1]))):
                self.spans[i] += num

    def compute(self) -> dict[str, Tensor]:
        scores = {"accuracy": self.num_right / max(self.num_words, 1)}
        if self.target.are_spans:
            right, predicted, true = self.spans
            scores["span_precision"] = right / max(predicted, 1)
            scores["span_recall"] = right / max(true, 1)
            scores["span_f1"] = 2 * right / max(predicted + true, 1)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in scores.items()}


def spans(tags: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Kind, first and last word of each span: B begins one, I of its kind goes on, and begins one where none is.

    E ends a span, S is one of a single word. This is how conlleval counts (CoNLL 2000).
    """
    kind, first = "", 0
    for place, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        if kind and (mark in ("O", "B", "S") or name != kind):
            yield kind, first, place - 1
            kind = ""
        if mark != "O" and not kind:
            kind, first = name, place
        if kind and mark in ("E", "S"):
            yield kind, first, place
            kind = ""
