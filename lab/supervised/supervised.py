"""Supervised learning: a backbone's features, and a task that predicts a target from them.

The data say what is to be predicted, and so which task it is, unless `module.task` names another. B batch, F features.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import SerializeAsAny
from torch import Tensor, nn

from lab.backbones import BackboneConfig, build_backbone
from lab.data.module import LabDataModule
from lab.data.resident import Batch
from lab.data.spec import DataSpec, Statistics, TensorSpec
from lab.engine.loss import Loss
from lab.engine.optimizers import OptimizerConfig
from lab.errors import UserError
from lab.experiment import ModuleConfig
from lab.export import Exportable, Input
from lab.pictures import Image
from lab.supervised.tasks import Task, TaskConfig, task_of
from lab.training.learner import Learner

_EXAMPLE = '''"""Predicts with predictor.onnx; needs numpy and onnxruntime."""

from pathlib import Path

import numpy as np
import onnxruntime

columns = {columns}
predictor = onnxruntime.InferenceSession(Path(__file__).with_name("predictor.onnx"))
row = np.array([{row}], np.float32)  # one number for each column
(prediction,) = predictor.run(None, {{"row": row}})
print("prediction", prediction[0])
'''


class SupervisedConfig(ModuleConfig):
    """Prediction of what the data's target is."""

    kind: Literal["supervised"] = "supervised"
    backbone: BackboneConfig = BackboneConfig(name="mlp")
    task: SerializeAsAny[TaskConfig] | None = None
    """how the target is predicted; by default the task that predicts this kind of target"""
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3)

    def build(self, spec: DataSpec) -> Supervised:
        return Supervised(self, spec)


class Predictor(nn.Module):
    """Predictions from inputs as they are in the data: standardized, through the backbone and the task."""

    mean: Tensor  # (F,)
    scale: Tensor

    def __init__(self, backbone: nn.Module, task: Task, statistics: Statistics) -> None:
        super().__init__()
        self.backbone, self.task = backbone, task
        self.register_buffer("mean", torch.tensor(statistics.mean))
        self.register_buffer("scale", torch.tensor(statistics.scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.task.predictions(self.task(self.backbone((x - self.mean) / self.scale)))


class Supervised(Learner[SupervisedConfig]):
    """Trains a backbone and a task."""

    def __init__(self, config: SupervisedConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not isinstance(spec.inputs, TensorSpec) or len(spec.inputs.shape) != 1:
            raise UserError(f"module.kind='supervised' needs rows of numbers (data.kind=table), not {spec.inputs!r}.")
        if config.backbone.recurrent:
            raise UserError(
                f"module.backbone.name={config.backbone.name!r} reads sequences; a row of a table is none. "
                f"Take another backbone, for example mlp."
            )
        backbone = build_backbone(config.backbone, spec.inputs.shape)
        task = task_of(config.task, spec.target, backbone.num_features)
        self.monitor = task.monitor  # type: ignore[misc]
        self.net = nn.ModuleDict({"backbone": backbone, "task": task})
        self.backbone, self.task = backbone, task
        self.updater = self.add_updater("net", self.net, self.loss, config.optimizer)

    def loss(self, batch: Batch) -> Loss:
        return self.task.loss(self.task(self.backbone(batch.x)), batch.y)

    def evaluate(self, data: LabDataModule, split: Literal["val", "test"] = "val", **options: Any) -> dict[str, float]:
        return self.task.scores(*self.predictions(data, split))

    def predictions(self, data: Any, split: Literal["train", "val", "test"]) -> tuple[Tensor, Tensor]:
        """What is predicted of a whole split, and what is true."""
        batches = list(data.batches(split))
        outputs = torch.cat([self.task(self.backbone(batch.x)) for batch in batches])
        return self.task.predictions(outputs), torch.cat([batch.y for batch in batches])

    def pictures(self, data: LabDataModule) -> dict[str, Image]:
        return self.task.picture(*self.predictions(data, "val"))

    def exportable(self, data: LabDataModule) -> Exportable | None:
        inputs, statistics = self.data_spec.inputs, self.data_spec.statistics
        assert isinstance(inputs, TensorSpec)
        if statistics is None:
            return None
        columns, row = list(statistics.names), ", ".join(f"{value:.6g}" for value in statistics.mean)
        predictor = Predictor(self.backbone, self.task, statistics)
        example = _EXAMPLE.format(columns=columns, row=f"[{row}]")
        return Exportable(
            "predictor", predictor, {"row": Input(inputs)}, ("prediction",), example, {"columns": columns}
        )
