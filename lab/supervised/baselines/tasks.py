"""What a baseline's outputs say of the target. B batch, K classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from lab.backbones.features import FeatureSpec
from lab.data.targets import Classes, RealValues
from lab.engine.loss import Loss
from lab.errors import UserError
from lab.supervised.baselines.models import Model, ModelConfig
from lab.supervised.losses import above_right, perceptron
from lab.supervised.scores import Scores, collected, torchmetrics
from lab.supervised.tasks import ClassificationConfig, RegressionConfig, Task
from lab.supervised.tasks.classification import Classification

_ABSENT = -1e4
"""the output of a class of which there is no training sample"""


class FittedClasses(Classification):
    """Classes by a fitted model's outputs, of which only logits have probabilities: predictions are theirs, shares of
    votes, or scores as they are, and what is told of mistakes is by how much another class is above the right one."""

    def __init__(
        self, outputs: Literal["logits", "shares", "scores"], top_k: tuple[int, ...], target: Classes, model: nn.Module
    ) -> None:
        super().__init__(ClassificationConfig(top_k=top_k), target, FeatureSpec("vector", ((1,),)))
        self.outputs, self.head = outputs, model  # type: ignore[assignment]
        if outputs != "logits":
            self.told = ("share", "shares") if outputs == "shares" else ("score", "scores")

    def loss(self, outputs: Tensor, y: Tensor) -> Loss:
        if self.outputs == "logits":
            return super().loss(outputs, y)
        loss = perceptron(above_right(outputs, y)).mean()
        return Loss(loss, {"perceptron": loss.detach(), "accuracy": (outputs.argmax(1) == y).float().mean()})

    def predictions(self, outputs: Tensor) -> Tensor:
        return super().predictions(outputs) if self.outputs == "logits" else outputs

    def outputs_of(self, predictions: Tensor) -> Tensor:
        return super().outputs_of(predictions) if self.outputs == "logits" else predictions

    @property
    def meaning(self) -> tuple[str, ...]:
        kind, *names = super().meaning
        return (kind if self.outputs == "logits" else self.outputs.removesuffix("s"), *names)

    def per_sample(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        values = super().per_sample(outputs, y)
        if self.outputs != "logits":
            del values["cross_entropy"]
            values["perceptron"] = perceptron(above_right(outputs, y))
        return values

    def scores(self) -> Scores:
        """Macro F1, and of what is from 0 to 1 the expected calibration error."""
        if self.outputs != "scores":
            return super().scores()
        f1 = torchmetrics().classification.MulticlassF1Score(self.target.num, validate_args=False)
        return collected({"f1": f1}, self.device)


class Present(nn.Module):
    """A model of those classes that training samples have, where there are others: (B, K)."""

    def __init__(self, model: Model, present: Sequence[int], num: int) -> None:
        super().__init__()
        self.model, self.num = model, num
        self.register_buffer("present", torch.tensor(present), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.model(x)
        absent = torch.full((x.shape[0], self.num), _ABSENT, dtype=outputs.dtype, device=outputs.device)
        return absent.index_copy(1, self.present, outputs)  # type: ignore[arg-type]


def present_classes(target: Classes) -> list[int]:
    """Those that training samples have."""
    return [number for number, count in enumerate(target.counts) if count] or list(range(target.num))


def fitted_task(config: ModelConfig, top_k: tuple[PositiveInt, ...], target: object, num_features: int) -> Task:
    """The task whose head is the model of the config.

    Raises UserError for targets that the model does not predict, and for training samples of one class.
    """
    if not isinstance(target, config.targets):
        held = "nothing to predict" if target is None else type(target).__name__
        kinds = " or ".join(each.__name__ for each in config.targets)
        raise UserError(f"module.model.kind={config.kind!r} predicts {kinds}; these data hold {held}.")
    if isinstance(target, RealValues):
        if top_k:
            raise UserError("module.top_k is of classes; these data hold RealValues.")
        task = RegressionConfig().build(target, FeatureSpec("vector", ((1,),)))
        task.head = config.build(num_features, len(target.names))  # type: ignore[assignment]
        return task
    assert isinstance(target, Classes)
    present = present_classes(target)
    if target.num > 1 and len(present) < 2:
        raise UserError(
            f"module.kind='baseline' needs training samples of at least two classes; all are of "
            f"{target.name(present[0])!r}."
        )
    if config.outputs == "shares":  # a class that no neighbour has gets no vote
        present = list(range(target.num))
    model: nn.Module = config.build(num_features, len(present))
    if len(present) < target.num:
        model = Present(model, present, target.num)  # type: ignore[arg-type]
    return FittedClasses(config.outputs, top_k, target, model)
