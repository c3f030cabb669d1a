"""Several labels at once: each applies or not, whatever the others do. B batch, N samples, F features, L labels."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones.features import FeatureSpec
from lab.data.targets import MultiLabel
from lab.engine.loss import Loss
from lab.supervised.scores import Scores, collected, torchmetrics
from lab.supervised.tasks.base import Task, TaskConfig, precision_recall_f1
from lab.training.answer import Answer
from lab.training.learner import Monitor


class MultiLabelConfig(TaskConfig):
    """Several labels at once."""

    kind: Literal["multi_label"] = "multi_label"
    target: ClassVar = MultiLabel
    loss: Literal["logistic", "hinge", "squared_hinge"] = "logistic"
    """of each label: cross-entropy of a logistic unit; max(0, 1 - t s) of a score s and t = -1 or 1; or its square"""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """logistic: the probability from which a label is predicted; a hinge's scores are predicted above 0"""

    def build(self, target: MultiLabel, features: FeatureSpec) -> MultiLabels:
        return MultiLabels(self, target, features)


class MultiLabels(Task):
    """A linear layer from features (B, F) to scores (B, L)."""

    monitor = Monitor("eval/micro_f1", "max")

    def __init__(self, config: MultiLabelConfig, target: MultiLabel, features: FeatureSpec) -> None:
        super().__init__()
        self.config, self.target = config, target
        self.cut = config.threshold if config.loss == "logistic" else 0.0
        self.head = nn.Linear(features.shapes[0][-1], len(target.names))

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.head(features)
        return scores

    def loss(self, outputs: Tensor, y: Tensor) -> Loss:
        loss = self._losses(outputs, y).mean()
        right = ((self.predictions(outputs) > self.cut) == (y > 0.5)).float().mean()
        return Loss(loss, {self.config.loss: loss.detach(), "accuracy": right})

    def predictions(self, outputs: Tensor) -> Tensor:
        """The probability of each label, or a hinge's scores."""
        return outputs.sigmoid() if self.config.loss == "logistic" else outputs

    def outputs_of(self, predictions: Tensor) -> Tensor:
        return predictions.logit(eps=1e-7) if self.config.loss == "logistic" else predictions

    @property
    def meaning(self) -> tuple[str, ...]:
        return ("probability" if self.config.loss == "logistic" else "score", *self.target.names)

    def per_sample(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        right = (self.predictions(outputs) > self.cut) == (y > 0.5)
        return {
            "exact_match": right.all(1),
            "accuracy": right.float().mean(1),
            self.config.loss: self._losses(outputs, y).mean(1),
        }

    def scores(self) -> Scores:
        """F1 over all labels at once, and its mean over labels."""
        metrics, num = torchmetrics().classification, len(self.target.names)
        kinds = {
            f"{average}_f1": metrics.MultilabelF1Score(num, threshold=0.5, average=average, validate_args=False)
            for average in ("micro", "macro")
        }
        return _Thresholded(collected(kinds, self.head.weight.device), self.cut)

    def answers(self, predictions: Tensor) -> list[Answer]:
        what = "probabilities" if self.config.loss == "logistic" else "scores"
        return [
            Answer(
                " ".join(name for name, value in zip(self.target.names, row, strict=True) if value > self.cut)
                or "none",
                {what: dict(zip(self.target.names, row, strict=True))},
            )
            for row in predictions.tolist()
        ]

    def truths(self, y: Tensor) -> list[str]:
        return [
            " ".join(name for name, value in zip(self.target.names, row, strict=True) if value) or "none"
            for row in y.tolist()
        ]

    def table(self, predictions: Tensor, y: Tensor) -> dict[str, dict[str, float]]:
        predicted, true = predictions > self.cut, y > 0.5
        return precision_recall_f1((predicted & true).sum(0), predicted.sum(0), true.sum(0), self.target.names)

    def _losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        if self.config.loss == "logistic":
            return F.binary_cross_entropy_with_logits(outputs, y, reduction="none")
        margins = F.relu(1 - (2 * y - 1) * outputs)
        return margins.square() if self.config.loss == "squared_hinge" else margins


class _Thresholded:
    """Scores of what is predicted, whatever the numbers are of which it is predicted."""

    def __init__(self, scores: Scores, cut: float) -> None:
        self.inner, self.cut = scores, cut

    def update(self, predictions: Tensor, y: Tensor) -> None:
        self.inner.update((predictions > self.cut).int(), y.int())

    def compute(self) -> dict[str, Tensor]:
        return self.inner.compute()
