"""Regression: real numbers from features, by squared, absolute or Huber's loss.

The head predicts standardized values, so that targets of any size are learned alike; all but the losses is told in the
data's own units. B batch, N samples, T numbers.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from lab.data.targets import RealValues
from lab.engine.loss import Loss
from lab.pictures import Image, predicted_and_true
from lab.supervised.tasks.base import Task, TaskConfig
from lab.training.learner import Monitor

_LOSSES = {"l2": F.mse_loss, "l1": F.l1_loss}


class RegressionConfig(TaskConfig):
    """Real numbers."""

    kind: Literal["regression"] = "regression"
    target: ClassVar = RealValues
    loss: Literal["l2", "l1", "smooth_l1"] = "l2"
    """of standardized values; smooth_l1 is squared below `beta` and absolute above (Huber 1964)"""
    beta: PositiveFloat = 1.0
    """smooth_l1: where the square ends, in standard deviations"""

    def build(self, target: RealValues, num_features: int) -> Regression:
        return Regression(self, target, num_features)


class Regression(Task):
    """A linear layer from features (B, F) to standardized values (B, T)."""

    monitor = Monitor("eval/r2", "max")
    mean: Tensor  # (T,)
    scale: Tensor

    def __init__(self, config: RegressionConfig, target: RealValues, num_features: int) -> None:
        super().__init__()
        self.config, self.names = config, target.names
        self.head = nn.Linear(num_features, len(target.names))
        self.register_buffer("mean", torch.tensor(target.mean))
        self.register_buffer("scale", torch.tensor(target.scale))

    def forward(self, features: Tensor) -> Tensor:
        values: Tensor = self.head(features)
        return values

    def loss(self, outputs: Tensor, y: Tensor) -> Loss:
        standardized = (y - self.mean) / self.scale
        if self.config.loss == "smooth_l1":
            loss = F.smooth_l1_loss(outputs, standardized, beta=self.config.beta)
        else:
            loss = _LOSSES[self.config.loss](outputs, standardized)
        return Loss(loss, {self.config.loss: loss.detach()})

    def predictions(self, outputs: Tensor) -> Tensor:
        return self.mean + self.scale * outputs

    def scores(self, predictions: Tensor, y: Tensor) -> dict[str, float]:
        """Means over the T numbers; r2 is 1 - squared error / variance, of the split itself."""
        error, spread = (predictions - y).double(), (y.double() - y.double().mean(0))
        squared, variance = error.square().mean(0), spread.square().mean(0)
        r2 = torch.where(variance > 0, 1 - squared / variance, torch.where(squared > 0, 0.0, 1.0))
        return {
            "eval/r2": float(r2.mean()),
            "eval/rmse": float(squared.sqrt().mean()),
            "eval/mae": float(error.abs().mean()),
        }

    def picture(self, predictions: Tensor, y: Tensor) -> dict[str, Image]:
        return {"predictions": predicted_and_true(predictions, y, self.names)}
