"""Supervised learning: a backbone's features, and a task that predicts a target from them.

The data say what is to be predicted, and so which task it is, unless `module.task` names another.
B batch, N samples, C channels, F features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from pydantic import NonNegativeFloat, SerializeAsAny
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones import BackboneConfig
from lab.backbones.features import Features, Pooling
from lab.backbones.registry import BACKBONES
from lab.data.module import LabDataModule
from lab.data.resident import Batch, minibatches
from lab.data.spec import DataSpec, TensorSpec, TreeSpec
from lab.engine.loss import Loss
from lab.engine.optimizers import OptimizerConfig
from lab.errors import UserError
from lab.experiment import ModuleConfig
from lab.export import Exportable
from lab.pictures import Image, captioned_grid
from lab.supervised.auxiliary import auxiliary_heads
from lab.supervised.embedding import Embedding, EmbeddingConfig
from lab.supervised.predictor import exportable
from lab.supervised.preprocessing import Preprocessing, PreprocessingConfig
from lab.supervised.tasks import Task, TaskConfig, task_for
from lab.supervised.tree_embedding import TreeEmbedding
from lab.training.answer import Answer
from lab.training.learner import Learner, Monitor, split_means

_NUM_MISTAKES = 24
_NUM_ILLUSTRATED = 3
Split = Literal["train", "val", "test"]
ConfigT = TypeVar("ConfigT", bound=ModuleConfig)


class SupervisedConfig(ModuleConfig):
    """Prediction of what the data's target is."""

    kind: Literal["supervised"] = "supervised"
    backbone: BackboneConfig = BackboneConfig(name="mlp")
    task: SerializeAsAny[TaskConfig] | None = None
    """how the target is predicted; by default the task that predicts this kind of target"""
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    """of inputs, by statistics of the training split"""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """of words and characters"""
    pooling: Pooling = "last"
    """what becomes the vector of a sequence: the backbone's own at its end, or the mean or the largest of its steps"""
    auxiliary_weight: NonNegativeFloat = 0.3
    """of the losses at inner maps while it learns, where the backbone has places for them (googlenet); 0: none"""
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3)

    def build(self, spec: DataSpec) -> Supervised:
        return Supervised(self, spec)


class Net(nn.Module):
    """The task's outputs of inputs (B, ...)."""

    def __init__(
        self, preprocessing: Preprocessing, embedding: Embedding | None, features: Features, task: Task
    ) -> None:
        super().__init__()
        self.preprocessing, self.embedding, self.features, self.task = preprocessing, embedding, features, task

    def forward(self, x: Tensor) -> Any:
        x = self.preprocessing(x)
        if self.embedding is None:
            return self.task(self.features(x))
        return self.task(self.features(self.embedding(x), *self.embedding.structure(x)))


class Judged(NamedTuple):
    """A split with what was predicted of it: scores by name, predictions and targets (N, ...), and its worst samples
    first, with how wrong each prediction is."""

    scores: dict[str, float]
    predictions: Tensor
    y: Tensor
    worst: Tensor
    worst_x: Tensor


def joined(parts: Sequence[Tensor], filling: int = 0) -> Tensor:
    """Minibatches one after the other; sequences (B, T, ...) of which some are shorter are filled at their ends."""
    longest = max(part.shape[1] if part.dim() > 1 else 0 for part in parts)
    if any(part.dim() > 1 and part.shape[1] < longest for part in parts):
        parts = [F.pad(part, (0, 0) * (part.dim() - 2) + (0, longest - part.shape[1]), value=filling) for part in parts]
    return torch.cat(list(parts))


class _Worst:
    """The inputs of a split that were predicted worst, the worst first, and which of its samples they are."""

    wrong: Tensor
    at: Tensor
    x: Tensor

    def __init__(self) -> None:
        self.num_seen = 0

    def add(self, wrong: Tensor, x: Tensor) -> None:
        """Look at inputs x (B, ...) of which predictions are so wrong (B,)."""
        first, self.num_seen = self.num_seen, self.num_seen + len(x)
        at = torch.arange(first, self.num_seen, device=x.device)
        if first:
            wrong, at, x = (joined(pair) for pair in ((self.wrong, wrong), (self.at, at), (self.x, x)))
        self.wrong, order = wrong.topk(min(_NUM_MISTAKES, len(wrong)))
        self.at, self.x = at[order], x[order]


class TaskLearner(Learner[ConfigT]):
    """A learner whose `net` ends in a task: what is measured, shown, answered and exported of it.

    Subclasses build `net`, whose outputs of inputs (B, ...) are those of its `task`, and say how it learns.
    """

    net: nn.Module

    def __init__(self, config: ConfigT, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self._judged: tuple[tuple[Split, int], Judged] | None = None

    @property
    def task(self) -> Task:
        return self.net.task  # type: ignore[return-value]

    @property
    def monitor(self) -> Monitor:  # type: ignore[override]
        return self.task.monitor

    def pass_on(self, batch: Batch) -> Tensor:
        outputs: Tensor = self.net(batch.x)
        return outputs

    def evaluate(self, data: LabDataModule, split: Literal["val", "test"] = "val", **options: Any) -> dict[str, float]:
        judged = self.judge(data, split)
        self._judged = (split, self.counters["updates"]), judged
        return {f"eval/{name}": value for name, value in judged.scores.items()}

    def training_score(self, sample: Batch) -> tuple[Monitor, float]:
        name = self.monitor.metric.removeprefix("eval/")
        scores = split_means(minibatches(sample), lambda batch: self.task.per_sample(self.net(batch.x), batch.y))
        return self.monitor, scores[name] if name in scores else self._judge(minibatches(sample)).scores[name]

    def judge(self, data: Any, split: Split) -> Judged:
        """Predict a whole split and compare it with what is true, going through it once."""
        return self._judge(data.batches(split))

    @torch.no_grad()
    def _judge(self, batches: Iterable[Batch]) -> Judged:
        scores = self.task.scores()
        predictions: list[Tensor] = []
        targets: list[Tensor] = []
        worst = _Worst()

        def per_sample(batch: Batch) -> dict[str, Tensor]:
            outputs = self.net(batch.x)
            values = self.task.per_sample(outputs, batch.y)
            predictions.append(self.task.predictions(outputs))
            targets.append(batch.y)
            scores.update(predictions[-1], batch.y)
            worst.add(list(values.values())[-1], batch.x)
            return values

        means = split_means(batches, per_sample)
        whole = {name: float(value) for name, value in scores.compute().items()}
        filling = self.task.filling
        return Judged({**means, **whole}, joined(predictions, filling), joined(targets, filling), worst.at, worst.x)

    def pictures(self, data: LabDataModule) -> dict[str, Image]:
        judged = self._just_judged(data, "val")
        images = self.task.draw(judged.predictions, judged.y)
        x = next(iter(data.batches("val"))).x[:_NUM_ILLUSTRATED]  # type: ignore[attr-defined]
        with torch.no_grad():
            images |= self.task.illustrate(x, self.net(x), self.data_spec)
        if judged.worst_x.dim() == 4 and judged.worst_x.shape[1] in (1, 3):
            images["mistakes"] = captioned_grid(judged.worst_x, self._captions(judged))
        self._judged = None  # which may be large
        return images

    def table(self, data: LabDataModule, split: Literal["val", "test"]) -> dict[str, dict[str, float]]:
        judged = self._just_judged(data, split)
        return self.task.table(judged.predictions, judged.y)

    @torch.no_grad()
    def answers(self, x: Tensor) -> list[Answer]:
        return self.task.answers(self.task.predictions(self.net(x)))

    def exportable(self, data: LabDataModule) -> Exportable | None:
        return exportable(self.net, self.data_spec)

    def _just_judged(self, data: LabDataModule, split: Split) -> Judged:
        """What the last evaluation has made of a split; else the split is judged."""
        last = self._judged
        return last[1] if last is not None and last[0] == (split, self.counters["updates"]) else self.judge(data, split)

    def _captions(self, judged: Judged) -> list[str]:
        """What was predicted of the worst samples, and what is true."""
        answers, truths = self.task.answers(judged.predictions[judged.worst]), self.task.truths(judged.y[judged.worst])
        return [
            true if answer.label == true else f"{answer.label}, not {true}"
            for answer, true in zip(answers, truths, strict=True)
        ]


class Supervised(TaskLearner[SupervisedConfig]):
    """Trains a Net."""

    net: Net

    def __init__(self, config: SupervisedConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        inputs = _inputs(config, spec)
        task = task_for(config.task, spec.target)
        preprocessing = Preprocessing(config.preprocessing, inputs.shape)
        embedding = _embedding(config, inputs, spec)
        shape = preprocessing.output_shape if embedding is None else embedding.output_shape
        features = Features(config.backbone, shape, task.features, config.pooling)
        self.net = Net(preprocessing, embedding, features, task.build(spec.target, features.spec))
        self.auxiliary = auxiliary_heads(features, task, spec.target) if config.auxiliary_weight else nn.ModuleList()
        trained = nn.ModuleList([self.net, self.auxiliary]) if self.auxiliary else self.net
        self.updater = self.add_updater("net", trained, self.loss, config.optimizer)

    @property
    def engines(self) -> tuple[str, ...]:  # type: ignore[override]
        """A recording would take one minibatch's trees for those of all."""
        return ("eager",) if isinstance(self.data_spec.inputs, TreeSpec) else self.task.engines

    def set_progress(self, progress: float) -> None:
        super().set_progress(progress)
        self.task.set_progress(progress)

    def fit_to(self, data: Any) -> None:
        if self.config.preprocessing.name != "none":
            self.net.preprocessing.fit(batch.x for batch in data.batches("train"))

    def loss(self, batch: Batch) -> Loss:
        if not self.auxiliary:
            return self.task.loss(self.net(batch.x), batch.y)
        x = self.net.preprocessing(batch.x)
        features, maps = self.net.features.backbone.net.with_auxiliary(x)  # type: ignore[operator]
        value, metrics, extras = self.task.loss(self.task(features), batch.y)
        for head, inner in zip(self.auxiliary, maps, strict=True):
            value = value + self.config.auxiliary_weight * head.loss(inner, batch.y)  # type: ignore[operator]
        return Loss(value, metrics, extras)


def _embedding(config: SupervisedConfig, inputs: TensorSpec, spec: DataSpec) -> Embedding | None:
    if spec.vocabulary is None:
        return None
    if isinstance(inputs, TreeSpec):
        return TreeEmbedding(config.embedding, inputs, spec.vocabulary)
    return Embedding(config.embedding, inputs, spec.vocabulary)


def _inputs(config: SupervisedConfig, spec: DataSpec) -> TensorSpec:
    """What the inputs are like. Raises UserError for others than images, rows of numbers, and sequences."""
    inputs = spec.inputs
    if not isinstance(inputs, TensorSpec) or (len(inputs.shape) != 2 and spec.vocabulary is None):
        return images_or_rows(config.kind, spec, "images, table or sequences")
    if config.preprocessing.name != "none" and spec.vocabulary is not None:
        raise UserError(
            f"module.preprocessing.name={config.preprocessing.name!r} is for numbers; these data are words."
        )
    backbone = BACKBONES[config.backbone.name]
    if isinstance(inputs, TreeSpec) and not backbone.trees:
        choices = [name for name in BACKBONES.names() if BACKBONES[name].trees]
        raise UserError(
            f"module.backbone.name={config.backbone.name!r} reads no trees; with data.flat=true it gets their words "
            f"alone. Valid choices: {', '.join(choices)}."
        )
    if not backbone.recurrent and not backbone.sequential:
        choices = [name for name in BACKBONES.names() if BACKBONES[name].recurrent or BACKBONES[name].sequential]
        raise UserError(
            f"module.backbone.name={config.backbone.name!r} reads no sequences. Valid choices: {', '.join(choices)}."
        )
    return inputs


def images_or_rows(kind: str, spec: DataSpec, data: str = "images or table") -> TensorSpec:
    """What the inputs are like. Raises UserError for inputs that are neither images nor rows of numbers.

    `data` names the kinds of data that a module of this kind takes.
    """
    inputs = spec.inputs
    if not isinstance(inputs, TensorSpec) or len(inputs.shape) not in (1, 3) or inputs.dtype != torch.float32:
        raise UserError(f"module.kind={kind!r} needs images or rows of numbers (data.kind={data}), not {inputs!r}.")
    return inputs
