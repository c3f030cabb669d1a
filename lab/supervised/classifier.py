"""Classification: any registered backbone, a linear layer, cross-entropy.

A recurrent backbone reads an image row by row and classifies after the last row. B batch, K classes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones import BackboneConfig
from lab.backbones.image_features import ImageFeatures
from lab.data.images import ImageModule
from lab.data.module import LabDataModule
from lab.data.resident import Batch
from lab.data.spec import DataSpec, TensorSpec
from lab.data.targets import Classes
from lab.engine.loss import Loss
from lab.engine.optimizers import OptimizerConfig
from lab.errors import UserError
from lab.experiment import ModuleConfig
from lab.export import Exportable, Input
from lab.training.learner import Learner, Monitor, split_means

_EXAMPLE = '''"""Classifies an image with classifier.onnx; needs numpy and onnxruntime."""

from pathlib import Path

import numpy as np
import onnxruntime

names = {names}
classifier = onnxruntime.InferenceSession(Path(__file__).with_name("classifier.onnx"))
images = np.random.default_rng(0).random((1, {shape}), np.float32)  # pixels from 0 to 1
(logits,) = classifier.run(None, {{"image": images}})
print("class", names[int(logits[0].argmax())])
'''


class ClassifierConfig(ModuleConfig):
    """Cross-entropy classification of images."""

    kind: Literal["classifier"] = "classifier"
    backbone: BackboneConfig = BackboneConfig(name="lenet")
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    def build(self, spec: DataSpec) -> Classifier:
        return Classifier(self, spec)


class ClassifierNet(nn.Module):
    """Logits (B, K) of images (B, C, H, W)."""

    def __init__(self, config: BackboneConfig, image: TensorSpec, num_classes: int) -> None:
        super().__init__()
        self.features = ImageFeatures(config, image.shape)
        self.head = nn.Linear(self.features.num_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


class Classifier(Learner[ClassifierConfig]):
    """Trains a ClassifierNet."""

    monitor = Monitor("eval/accuracy", "max")

    def __init__(self, config: ClassifierConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not isinstance(spec.target, Classes) or not isinstance(spec.inputs, TensorSpec):
            raise UserError(f"module.kind='classifier' needs data with class labels, not {spec.target!r}.")
        if spec.target.num < 2:
            raise UserError(
                "module.kind='classifier' needs images of at least two classes; this data has one or no labels."
            )
        self.net = ClassifierNet(config.backbone, spec.inputs, spec.target.num)
        self.updater = self.add_updater("net", self.net, self.loss, config.optimizer)

    def loss(self, batch: Batch) -> Loss:
        logits = self.net(batch.x)  # (B, K)
        loss = F.cross_entropy(logits, batch.y, label_smoothing=self.config.label_smoothing)
        accuracy = (logits.argmax(1) == batch.y).float().mean()
        return Loss(loss, {"cross_entropy": loss.detach(), "accuracy": accuracy})

    def per_sample(self, batch: Batch) -> dict[str, Tensor]:
        """Whether each image is classified rightly, and its cross-entropy: (B,) each."""
        logits = self.net(batch.x)
        return {
            "eval/accuracy": logits.argmax(1) == batch.y,
            "eval/cross_entropy": F.cross_entropy(logits, batch.y, reduction="none"),
        }

    def evaluate(self, data: LabDataModule, split: Literal["val", "test"] = "val", **options: Any) -> dict[str, float]:
        assert isinstance(data, ImageModule)
        return split_means(data.batches(split), self.per_sample)

    def exportable(self, data: LabDataModule) -> Exportable:
        inputs, target = self.data_spec.inputs, self.data_spec.target
        assert isinstance(inputs, TensorSpec)
        assert isinstance(target, Classes)
        names = list(target.names)
        example = _EXAMPLE.format(shape=", ".join(map(str, inputs.shape)), names=names)
        return Exportable("classifier", self.net, {"image": Input(inputs)}, ("logits",), example, {"classes": names})
