"""Classification: one class of several from features. B batch, N samples, F features, K classes."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones.features import FeatureSpec
from lab.backbones.layers import Share
from lab.data.targets import Classes
from lab.engine.loss import Loss
from lab.errors import UserError
from lab.pictures import Image, confusion_matrix
from lab.supervised.losses import LOSSES, above_right, focal, of_shares
from lab.supervised.scores import Scores, collected, torchmetrics
from lab.supervised.tasks.base import Task, TaskConfig, precision_recall_f1
from lab.training.answer import Answer
from lab.training.learner import Monitor

_MOST_DRAWN = 40
"""classes of a confusion matrix that a person can read"""
_MOST_TOLD = 100
"""classes whose probabilities an answer gives, the most probable ones first"""


class ClassificationConfig(TaskConfig):
    """One class of several."""

    kind: Literal["classification"] = "classification"
    target: ClassVar = Classes
    loss: Literal["cross_entropy", "hinge", "squared_hinge", "perceptron", "exponential", "squared", "focal"] = (
        "cross_entropy"
    )
    """what is descended (lab/supervised/losses.py): of the softmax, of margins between scores, or of probabilities"""
    gamma: NonNegativeFloat = 2.0
    """focal: how much less samples count that are predicted well"""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """cross_entropy: share of the probability that is spread over all classes (Szegedy et al. 2016)"""
    class_weights: Literal["balanced"] | tuple[NonNegativeFloat, ...] | None = None
    """by what the loss of a sample of each class is multiplied; balanced: by N / (K n), n of the N training samples
    being of the class, as if all K were equally frequent"""
    dropout: Share = 0.0
    """share of the features that are dropped while it learns"""
    top_k: tuple[PositiveInt, ...] = ()
    """also score whether the right class is among the k most probable ones"""

    @model_validator(mode="after")
    def _check_options(self) -> ClassificationConfig:
        if self.label_smoothing and self.loss != "cross_entropy":
            raise ValueError(f"label_smoothing is of loss=cross_entropy, not of {self.loss}")
        if self.gamma != type(self).model_fields["gamma"].default and self.loss != "focal":
            raise ValueError(f"gamma is of loss=focal, not of {self.loss}")
        return self

    def build(self, target: Classes, features: FeatureSpec) -> Classification:
        return Classification(self, target, features)


class Classification(Task):
    """A linear layer from features (B, F) to logits (B, K).

    Raises UserError for less than two classes, or weights and ranks that do not fit them.
    """

    monitor = Monitor("eval/accuracy", "max")
    told: tuple[str, str] = ("probability", "probabilities")
    """what an answer calls the prediction of one class, and those of all"""
    weight: Tensor | None  # (K,)

    def __init__(self, config: ClassificationConfig, target: Classes, features: FeatureSpec) -> None:
        super().__init__()
        if target.num < 2:
            raise UserError(
                f"module.task.kind={config.kind!r} needs data of at least two classes; these have one or no labels."
            )
        if any(k >= target.num for k in config.top_k):
            raise UserError(
                f"module.task.top_k={list(config.top_k)} is not valid: of {target.num} classes, k is below that."
            )
        self.config, self.target = config, target
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(features.shapes[0][-1], target.num)
        self.register_buffer("weight", _class_weights(config, target), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(features))
        return logits

    def loss(self, outputs: Tensor, y: Tensor) -> Loss:
        """Of class numbers (B,), or of the classes' shares (B, K) where images are mixed."""
        loss = self._losses(outputs, y).mean()
        accuracy = (outputs.argmax(1) == (y if y.dim() == 1 else y.argmax(1))).float().mean()
        return Loss(loss, {self.config.loss: loss.detach(), "accuracy": accuracy})

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)

    def outputs_of(self, predictions: Tensor) -> Tensor:
        return predictions.clamp(min=torch.finfo(predictions.dtype).tiny).log()

    @property
    def meaning(self) -> tuple[str, ...]:
        return ("probability", *(self.target.name(i) for i in range(self.target.num)))

    def per_sample(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        ranks = {
            f"top{k}_accuracy": (outputs.topk(k, 1).indices == y[:, None]).any(1)
            for k in dict.fromkeys(self.config.top_k)
        }
        right = outputs.argmax(1) == y
        losses = {"cross_entropy": F.cross_entropy(outputs, y, reduction="none")}
        if self.config.loss != "cross_entropy":
            losses = {self.config.loss: self._losses(outputs, y, weighted=False), **losses}
        return {"accuracy": right, **ranks, **losses}

    def scores(self) -> Scores:
        """Macro F1, and the expected calibration error of 15 bins (Guo et al. 2017)."""
        metrics, num = torchmetrics().classification, self.target.num
        return collected(
            {
                "f1": metrics.MulticlassF1Score(num, validate_args=False),
                "calibration_error": metrics.MulticlassCalibrationError(num, validate_args=False),
            },
            self.device,
        )

    @property
    def device(self) -> torch.device:
        """Where the head is."""
        return next(chain(self.head.parameters(), self.head.buffers())).device

    def answers(self, predictions: Tensor) -> list[Answer]:
        values, numbers = predictions.topk(min(_MOST_TOLD, self.target.num), 1)
        one, every = self.told
        return [
            Answer(
                self.target.name(row[0]),
                {one: p[0], every: dict(zip(map(self.target.name, row), p, strict=True))},
            )
            for row, p in zip(numbers.tolist(), values.tolist(), strict=True)
        ]

    def truths(self, y: Tensor) -> list[str]:
        return [self.target.name(number) for number in y.tolist()]

    def draw(self, predictions: Tensor, y: Tensor) -> dict[str, Image]:
        if self.target.num > _MOST_DRAWN:
            return {}
        names = [self.target.name(i) for i in range(self.target.num)]
        return {"confusion": confusion_matrix(self._confusion(predictions, y), names)}

    def table(self, predictions: Tensor, y: Tensor) -> dict[str, dict[str, float]]:
        counts = torch.bincount(predictions.argmax(1), minlength=self.target.num)
        right = torch.bincount(y[predictions.argmax(1) == y], minlength=self.target.num)
        names = [self.target.name(i) for i in range(self.target.num)]
        return precision_recall_f1(right, counts, torch.bincount(y, minlength=self.target.num), names)

    def _losses(self, outputs: Tensor, y: Tensor, weighted: bool = True) -> Tensor:
        """Of each sample (B,)."""
        weight = self.weight if weighted else None
        if self.config.loss == "cross_entropy":
            return F.cross_entropy(outputs, y, weight, label_smoothing=self.config.label_smoothing, reduction="none")
        loss = partial(focal, gamma=self.config.gamma) if self.config.loss == "focal" else LOSSES[self.config.loss]
        if y.dim() == 1:
            losses = loss(above_right(outputs, y))
            return losses if weight is None else losses * weight[y]
        return of_shares(loss, outputs, y if weight is None else y * weight)

    def _confusion(self, predictions: Tensor, y: Tensor) -> Tensor:
        """How often each class (rows) was taken for each (columns): (K, K)."""
        pairs = y * self.target.num + predictions.argmax(1)
        return torch.bincount(pairs, minlength=self.target.num**2).view(self.target.num, -1)


def _class_weights(config: ClassificationConfig, target: Classes) -> Tensor | None:
    if config.class_weights is None:
        return None
    if config.class_weights == "balanced":
        if not target.counts:
            raise UserError("module.task.class_weights='balanced' needs data that say how frequent their classes are.")
        counts = torch.tensor(target.counts, dtype=torch.float32)
        return torch.where(counts > 0, counts.sum() / (target.num * counts.clamp(min=1)), 0.0)
    if len(config.class_weights) != target.num or not any(config.class_weights):
        raise UserError(
            f"module.task.class_weights={list(config.class_weights)} is not valid: there are {target.num} classes, "
            f"each needs a weight, and one of them more than 0."
        )
    return torch.tensor(config.class_weights)
