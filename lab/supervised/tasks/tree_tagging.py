"""Tagging of trees: a class for each node, the root's above all (Socher et al. 2013).

B trees, N nodes of the largest one, F features, K classes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from lab.backbones.features import FeatureKind, FeatureSpec, Places
from lab.data.targets import NO_TAG, TreeClasses
from lab.engine.loss import Loss
from lab.pictures import Image
from lab.supervised.scores import Scores
from lab.supervised.tasks.classification import Classification, ClassificationConfig
from lab.training.answer import Answer


class TreeTaggingConfig(ClassificationConfig):
    """A class for each node of a tree."""

    kind: Literal["tree_tagging"] = "tree_tagging"  # type: ignore[assignment]
    target: ClassVar = TreeClasses  # type: ignore[assignment]
    features: ClassVar[FeatureKind] = "places"
    learns: Literal["nodes", "roots"] = "nodes"
    """whose labels it learns from: those of all nodes that have one, or of roots alone"""

    def build(self, target: TreeClasses, features: FeatureSpec) -> TreeTagging:  # type: ignore[override]
        return TreeTagging(self, target, features)


class TreeTagging(Classification):
    """A linear layer from features of each node to its logits (B, N, K).

    What is scored, told and drawn is of roots, as of a classification; of all nodes `node_accuracy`, the share of those
    with a label that get it. Predictions are probabilities (B, N, K), NO_TAG behind a root.

    Raises UserError for less than two classes, or weights and ranks that do not fit them.
    """

    filling = NO_TAG

    def __init__(self, config: TreeTaggingConfig, target: TreeClasses, features: FeatureSpec) -> None:
        super().__init__(config, target.classes, features)
        self.learns, self.mean_labelled = config.learns, target.mean_labelled

    def forward(self, features: Places) -> Places:  # type: ignore[override]
        return features._replace(values=super().forward(features.values))

    def loss(self, outputs: Places, y: Tensor) -> Loss:  # type: ignore[override]
        """The mean over roots; or over nodes: the sum over the minibatch by as many labels as it has on average, so
        that the gradients of several workers, of whom each has other trees, have the mean of one."""
        roots = super().loss(_last(outputs.values, outputs.lengths), _roots(y))
        if self.learns == "roots":
            return roots
        labelled = y != NO_TAG
        losses = self._losses(outputs.values[labelled], y[labelled])
        loss = losses.sum() / (len(y) * self.mean_labelled)
        return Loss(loss, {**roots.metrics, self.config.loss: loss.detach()})

    def predictions(self, outputs: Places) -> Tensor:  # type: ignore[override]
        return torch.where(outputs.mask[..., None], outputs.values.softmax(2), NO_TAG)

    def outputs_of(self, predictions: Tensor) -> Places:  # type: ignore[override]
        return Places(super().outputs_of(predictions), _lengths(predictions))

    @property
    def meaning(self) -> tuple[str, ...]:
        kind, *names = super().meaning
        return (f"{kind} at each node", *names)

    def per_sample(self, outputs: Places, y: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return super().per_sample(_last(outputs.values, outputs.lengths), _roots(y))

    def scores(self) -> Scores:
        return TreeScores(super().scores())

    def answers(self, predictions: Tensor) -> list[Answer]:
        """Of the root, and the number of each node's class, in post-order from 1."""
        lengths = _lengths(predictions)
        answers = super().answers(_last(predictions, lengths))
        for answer, length, classes in zip(answers, lengths.tolist(), predictions.argmax(2).tolist(), strict=True):
            answer.details["classes"] = {f"node {i}": number for i, number in enumerate(classes[:length], 1)}
        return answers

    def truths(self, y: Tensor) -> list[str]:
        return super().truths(_roots(y))

    def draw(self, predictions: Tensor, y: Tensor) -> dict[str, Image]:
        return super().draw(_last(predictions, _lengths(predictions)), _roots(y))

    def table(self, predictions: Tensor, y: Tensor) -> dict[str, dict[str, float]]:
        return super().table(_last(predictions, _lengths(predictions)), _roots(y))


class TreeScores:
    """What is scored of roots, and `node_accuracy`."""

    def __init__(self, of_roots: Scores) -> None:
        self.of_roots = of_roots
        self.num_right = self.num_labelled = 0

    def update(self, predictions: Tensor, y: Tensor) -> None:
        self.of_roots.update(_last(predictions, _lengths(predictions)), _roots(y))
        labelled = y != NO_TAG
        self.num_right += int((predictions.argmax(2) == y)[labelled].sum())
        self.num_labelled += int(labelled.sum())

    def compute(self) -> dict[str, Tensor]:
        share = self.num_right / max(self.num_labelled, 1)
        return {**self.of_roots.compute(), "node_accuracy": torch.tensor(share, dtype=torch.float64)}


def _last(values: Tensor, lengths: Tensor) -> Tensor:
    """The values (B, K) of each tree's last node, of those of all (B, N, K)."""
    return values[torch.arange(len(values), device=values.device), lengths - 1]


def _lengths(predictions: Tensor) -> Tensor:
    """How many nodes (B,) predictions (B, N, K) are of."""
    return (predictions[..., 0] >= 0).sum(1)


def _roots(y: Tensor) -> Tensor:
    """The labels (B,) of roots: the last ones of those of all nodes (B, N)."""
    places = torch.arange(y.shape[1], device=y.device).where(y != NO_TAG, -1).amax(1)
    return y.gather(1, places[:, None])[:, 0]
