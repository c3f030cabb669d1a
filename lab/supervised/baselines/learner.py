"""A baseline: a classical model, fitted once, on fixed features, judged and shown as every supervised model is.

    inputs -> features -> preprocessing of the features -> model -> outputs

The fit is the run's one training step: it counts the samples of the training split and one update, and is all that
there is to learn. N samples, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import PositiveInt, SerializeAsAny
from torch import Tensor, nn

from lab.data.images import ImageModule
from lab.data.resident import ResidentModule
from lab.data.spec import DataSpec
from lab.data.targets import Classes
from lab.errors import UserError
from lab.experiment import ModuleConfig
from lab.supervised.baselines.background import in_background
from lab.supervised.baselines.features import Features, FeaturesConfig, RawConfig
from lab.supervised.baselines.models import Model, ModelConfig
from lab.supervised.baselines.neighbours import NearestNeighboursConfig
from lab.supervised.baselines.tasks import Present, fitted_task
from lab.supervised.preprocessing import Preprocessing, PreprocessingConfig
from lab.supervised.supervised import TaskLearner, images_or_rows
from lab.supervised.tasks import Task
from lab.training.learner import StepMetrics, means

_MOST_NUMBERS = 2**31
"""features of all training samples, 8 GiB"""
_MOST_JUDGED = 1_000
"""training samples whose loss is told"""
_AT_ONCE = 200


class BaselineConfig(ModuleConfig):
    """A classical model on fixed features."""

    kind: Literal["baseline"] = "baseline"
    features: SerializeAsAny[FeaturesConfig] = RawConfig()
    """what of an input the model sees"""
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    """of the features, by statistics of the training split"""
    model: SerializeAsAny[ModelConfig] = NearestNeighboursConfig()
    """what is fitted"""
    top_k: tuple[PositiveInt, ...] = ()
    """of classes: also score whether the right one is among the k first ones"""

    def build(self, spec: DataSpec) -> Baseline:
        return Baseline(self, spec)


class BaselineNet(nn.Module):
    """The task's outputs of inputs (B, ...)."""

    def __init__(self, features: Features, preprocessing: Preprocessing, task: Task) -> None:
        super().__init__()
        self.features, self.preprocessing, self.task = features, preprocessing, task

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.task(self.preprocessing(self.features(x)))
        return outputs


class Baseline(TaskLearner[BaselineConfig]):
    """Fits a BaselineNet."""

    net: BaselineNet
    engines = ("eager",)

    def __init__(self, config: BaselineConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        features = config.features.build(images_or_rows(config.kind, spec).shape)
        preprocessing = Preprocessing(config.preprocessing, (features.num,))
        (num,) = preprocessing.output_shape
        self.net = BaselineNet(features, preprocessing, fitted_task(config.model, config.top_k, spec.target, num))

    @property
    def is_complete(self) -> bool:
        return self.counters["updates"] > 0

    def fit_to(self, data: Any) -> None:
        """Refuse, before a run begins, data that the model cannot be fitted to."""
        assert isinstance(data, ResidentModule)
        if isinstance(data, ImageModule) and data.config.transforms.changes:
            raise UserError(
                "module.kind='baseline' sees each picture once, as it is: data.transforms would change nothing."
            )
        num = data.order.num_samples
        if num * self.net.features.num > _MOST_NUMBERS:
            raise UserError(
                f"module.kind='baseline' holds the features of all training samples in memory: {num:,} x "
                f"{self.net.features.num:,} are too many. data.num_train takes fewer pictures, module.features.kind "
                f"others of them."
            )
        self.net.features.check(num)
        self._model.check(num)

    @torch.no_grad()
    def training_step(self, chunk: Any, batch_idx: int = 0) -> StepMetrics:
        """Fit to the whole training split, in float32; the chunk's minibatches are not drawn."""
        with torch.autocast(self.device.type, enabled=False):
            return self._fit()

    def _fit(self) -> StepMetrics:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        seed = int(torch.randint(2**31 - 1, ()))

        def inputs() -> Iterator[Tensor]:
            return (batch.x for batch in data.batches("train", _AT_ONCE))

        in_background(lambda: self.net.features.fit(inputs, seed), "fitting features")
        pairs = [(self.net.features(batch.x), batch.y) for batch in data.batches("train", _AT_ONCE)]
        x, y = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        del pairs
        if not x.isfinite().all():
            where = int((~x.isfinite()).any(1).nonzero()[0])
            raise UserError(f"module.kind='baseline' needs finite features; those of training sample {where} are not.")
        self.net.preprocessing.fit(x.split(10_000))
        x = self.net.preprocessing(x)
        in_background(lambda: self._model.fit(x.cpu(), self._targets(y.cpu()), seed), "fitting the model")
        self.counters["samples"] += len(y)
        self.counters["updates"] += 1
        return means([self.task.loss(self.task(x[:_MOST_JUDGED]), y[:_MOST_JUDGED]).metrics])

    @property
    def _model(self) -> Model:
        head: Any = self.task.head
        model: Model = head.model if isinstance(head, Present) else head
        return model

    def _targets(self, y: Tensor) -> Tensor:
        """Class numbers (N,) among those that are there, or values (N, T) in standard deviations."""
        if isinstance(self.data_spec.target, Classes):
            head: Any = self.task.head
            return torch.searchsorted(head.present.cpu(), y) if isinstance(head, Present) else y  # type: ignore[arg-type]
        task: Any = self.task
        return (y - task.mean.cpu()) / task.scale.cpu()
