"""A task: the head on a backbone's features, its loss, its scores and its pictures. B batch, F features, N samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lab.backbones.features import FeatureKind, FeatureSpec
from lab.data.spec import DataSpec
from lab.engine.loss import Loss
from lab.errors import UserError
from lab.experiment import KindConfig
from lab.pictures import Image
from lab.supervised.scores import NoScores, Scores
from lab.training.answer import Answer
from lab.training.learner import Monitor


class TaskConfig(KindConfig):
    """How a target is predicted."""

    target: ClassVar[type[Any]]
    """the kind of target that it predicts"""
    features: ClassVar[FeatureKind] = "vector"
    """what its head asks of the backbone"""

    def build(self, target: Any, features: FeatureSpec) -> Task:
        raise NotImplementedError


class Task(nn.Module):
    """Subclasses predict a target from features, by default a vector (B, F)."""

    monitor: ClassVar[Monitor]
    engines: ClassVar[tuple[str, ...]] = ("eager", "traced")
    """the update engines that its loss can run on (see Learner)"""
    filling: ClassVar[int] = 0
    """what stands behind the end of a prediction or target (B, T, ...) that is shorter than others"""

    def set_progress(self, progress: float) -> None:
        """Called before updates with the share of the budget that is used, for what changes with it."""

    @abstractmethod
    def forward(self, features: Any) -> Any:
        """The head's outputs: a tensor, or what the methods below understand."""

    @abstractmethod
    def loss(self, outputs: Any, y: Tensor) -> Loss:
        """What is descended, the mean over a minibatch."""

    @abstractmethod
    def predictions(self, outputs: Any) -> Tensor:
        """What the outputs say of the target (B, ...), in the data's own units; of classes, their probabilities."""

    def outputs_of(self, predictions: Tensor) -> Tensor:
        """Outputs of which these are the predictions: for the mean of several models' predictions.

        Raises UserError where there are none.
        """
        raise UserError(f"{type(self).__name__} has no outputs that give certain predictions, as an ensemble needs.")

    @property
    def meaning(self) -> tuple[str, ...]:
        """What the numbers of predictions mean: those of two models are comparable if these are equal."""
        return ()

    @abstractmethod
    def per_sample(self, outputs: Any, y: Tensor) -> dict[str, Tensor]:
        """Numbers (B,) by name, whose means over a split are scores. The last one says how wrong a prediction is."""

    def scores(self) -> Scores:
        """What is scored of a split as a whole."""
        return NoScores()

    @abstractmethod
    def answers(self, predictions: Tensor) -> list[Answer]:
        """What is said of each sample, in the names that the data have."""

    @abstractmethod
    def truths(self, y: Tensor) -> list[str]:
        """The targets (B, ...) in a word or two each."""

    def draw(self, predictions: Tensor, y: Tensor) -> dict[str, Image]:
        """Images by name that show how the predictions of a split (N, ...) compare with what is true (N, ...)."""
        return {}

    def illustrate(self, x: Tensor, outputs: Any, spec: DataSpec) -> dict[str, Image]:
        """Images by name that show how the outputs of a few inputs x (B, ...) came about."""
        return {}

    def table(self, predictions: Tensor, y: Tensor) -> dict[str, dict[str, float]]:
        """What is told of each class, label or value, by name, of a split (N, ...)."""
        return {}


def precision_recall_f1(
    right: Tensor, predicted: Tensor, true: Tensor, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """A row for each name; what would be 0 / 0 is 0, as in scikit-learn."""
    precision, recall = right / predicted.clamp(min=1), right / true.clamp(min=1)
    f1 = 2 * right / (predicted + true).clamp(min=1)
    columns = {"precision": precision, "recall": recall, "f1": f1, "samples": true}
    values = {key: torch.as_tensor(value, dtype=torch.float64).tolist() for key, value in columns.items()}
    return {name: {key: value[i] for key, value in values.items()} for i, name in enumerate(names)}
