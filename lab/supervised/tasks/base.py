"""A task: the head on a backbone's features, its loss, its scores and its picture. B batch, F features, N samples."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from lab.engine.loss import Loss
from lab.experiment import KindConfig
from lab.pictures import Image
from lab.training.learner import Monitor


class TaskConfig(KindConfig):
    """How a target is predicted."""

    target: ClassVar[type[Any]]
    """the kind of target that it predicts"""

    def build(self, target: Any, num_features: int) -> Task:
        raise NotImplementedError


class Task(nn.Module):
    """Subclasses predict a target from features (B, F)."""

    monitor: ClassVar[Monitor]

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """The head's outputs of features (B, F)."""

    @abstractmethod
    def loss(self, outputs: Tensor, y: Tensor) -> Loss:
        """What is descended, the mean over a minibatch."""

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """What the outputs say of the target, in the data's own units."""

    @abstractmethod
    def scores(self, predictions: Tensor, y: Tensor) -> dict[str, float]:
        """Metrics named `eval/...` of the predictions (N, ...) of a whole split."""

    def picture(self, predictions: Tensor, y: Tensor) -> dict[str, Image]:
        """Images by name that show how the predictions of a split compare with what is true."""
        return {}
