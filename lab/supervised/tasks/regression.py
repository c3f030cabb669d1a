"""Regression: real numbers from features, by squared, absolute or Huber's loss, or as classification of bins.

The head predicts standardized values, so that targets of any size are learned alike; all but the losses is told in the
data's own units. B batch, N samples, T numbers, K bins.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones.features import FeatureSpec
from lab.data.targets import RealValues
from lab.engine.loss import Loss
from lab.pictures import Image, predicted_and_true
from lab.supervised.scores import Scores, collected, torchmetrics
from lab.supervised.tasks.base import Task, TaskConfig
from lab.training.answer import Answer
from lab.training.learner import Monitor

_LOSSES = {"l2": F.mse_loss, "l1": F.l1_loss}
_REACH = 4.0
"""standard deviations on either side of the mean that bins cover; what lies beyond counts for the outermost"""


class RegressionConfig(TaskConfig):
    """Real numbers."""

    kind: Literal["regression"] = "regression"
    target: ClassVar = RealValues
    loss: Literal["l2", "l1", "smooth_l1", "binned"] = "l2"
    """of standardized values; smooth_l1 is squared below `beta` and absolute above (Huber 1964); binned is the
    cross-entropy of the two bins on either side, by nearness, whose mean is predicted (Imani and White 2018)"""
    beta: PositiveFloat = 1.0
    """smooth_l1: where the square ends, in standard deviations"""
    bins: int = Field(default=51, ge=2, le=10_000)
    """binned: how many, equally spaced from -4 to 4 standard deviations"""

    def build(self, target: RealValues, features: FeatureSpec) -> Regression:
        return Regression(self, target, features)


class Regression(Task):
    """A linear layer from features (B, F) to standardized values (B, T), or to logits of bins (B, T, K)."""

    monitor = Monitor("eval/r2", "max")
    mean: Tensor  # (T,) float64
    scale: Tensor
    centres: Tensor  # (K,)

    def __init__(self, config: RegressionConfig, target: RealValues, features: FeatureSpec) -> None:
        super().__init__()
        self.config, self.names = config, target.names
        self.binned = config.loss == "binned"
        self.head = nn.Linear(features.shapes[0][-1], len(target.names) * (config.bins if self.binned else 1))
        self.register_buffer("mean", torch.tensor(target.mean, dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(target.scale, dtype=torch.float64))
        self.register_buffer("centres", torch.linspace(-_REACH, _REACH, config.bins), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        values: Tensor = self.head(features)
        return values.unflatten(1, (len(self.names), self.config.bins)) if self.binned else values

    def loss(self, outputs: Tensor, y: Tensor) -> Loss:
        loss = self._losses(outputs, y).mean()
        return Loss(loss, {self.config.loss: loss.detach()})

    def predictions(self, outputs: Tensor) -> Tensor:
        if self.binned:
            outputs = outputs.softmax(2) @ self.centres
        return self.mean + self.scale * outputs

    def outputs_of(self, predictions: Tensor) -> Tensor:
        standardized = (predictions - self.mean) / self.scale
        if not self.binned:
            return standardized
        nearness = self._nearness(standardized.clamp(-_REACH, _REACH).float())
        return nearness.clamp(min=torch.finfo(nearness.dtype).tiny).log()

    @property
    def meaning(self) -> tuple[str, ...]:
        return ("value", *self.names)

    def per_sample(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The mean absolute error of each sample's numbers."""
        return {"mae": (self.predictions(outputs) - y).abs().mean(1)}

    def scores(self) -> Scores:
        return _RegressionScores(self.mean, self.scale)

    def answers(self, predictions: Tensor) -> list[Answer]:
        return [
            Answer(", ".join(f"{value:.6g}" for value in row), {"values": dict(zip(self.names, row, strict=True))})
            for row in predictions.tolist()
        ]

    def truths(self, y: Tensor) -> list[str]:
        return [", ".join(f"{value:.6g}" for value in row) for row in y.tolist()]

    def draw(self, predictions: Tensor, y: Tensor) -> dict[str, Image]:
        return {"predictions": predicted_and_true(predictions, y, self.names)}

    def table(self, predictions: Tensor, y: Tensor) -> dict[str, dict[str, float]]:
        scores = _RegressionScores(self.mean, self.scale)
        scores.update(predictions, y)
        columns = {**scores.of_each(), "mae": (predictions - y).abs().mean(0)}
        return {name: {key: float(values[i]) for key, values in columns.items()} for i, name in enumerate(self.names)}

    def _losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Of each number (B, T)."""
        standardized = ((y - self.mean) / self.scale).float()
        if self.config.loss == "smooth_l1":
            return F.smooth_l1_loss(outputs, standardized, beta=self.config.beta, reduction="none")
        if not self.binned:
            return _LOSSES[self.config.loss](outputs, standardized, reduction="none")
        return -(self._nearness(standardized.clamp(-_REACH, _REACH)) * outputs.log_softmax(2)).sum(2)

    def _nearness(self, standardized: Tensor) -> Tensor:
        """The shares (B, T, K) of the bins on either side of values (B, T) within their reach, by nearness."""
        width = self.centres[1] - self.centres[0]
        place = ((standardized + _REACH) / width).clamp(max=self.config.bins - 1)  # (B, T)
        return F.relu(1 - (place[..., None] - torch.arange(self.config.bins, device=place.device)).abs())


class _RegressionScores:
    """R2 and the root of the mean squared error, means over the T numbers.

    In float64 and in standard deviations of training: what torchmetrics takes for zero is 1e-4, whatever the unit.
    """

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        metrics = torchmetrics().regression
        self.mean, self.scale = mean, scale
        self.metrics = collected(
            {"r2": metrics.R2Score(multioutput="raw_values"), "mse": metrics.MeanSquaredError(num_outputs=len(mean))},
            mean.device,
        )
        self.metrics.set_dtype(torch.float64)

    def update(self, predictions: Tensor, y: Tensor) -> None:
        self.metrics.update((predictions - self.mean) / self.scale, (y - self.mean) / self.scale)

    def of_each(self) -> dict[str, Tensor]:
        """The scores (T,) by name."""
        squared = self.metrics["mse"].compute().reshape(-1)
        one = int(self.metrics["r2"].total) < 2  # of which torchmetrics gives no R2
        r2 = (squared == 0).double() if one else self.metrics["r2"].compute().reshape(-1)
        return {"r2": r2, "rmse": squared.sqrt() * self.scale}

    def compute(self) -> dict[str, Tensor]:
        return {name: values.mean() for name, values in self.of_each().items()}
