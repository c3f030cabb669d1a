"""Autoencoders: plain, denoising (Vincent et al. 2008), and deep ones pretrained layer by layer.

Greedy layer-wise pretraining (Hinton and Salakhutdinov 2006, Bengio et al. 2007): each layer first learns to
reconstruct the output of the layers below it, then all are trained together. B images, L layers.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones.layers import Activation, activation_layer
from lab.backbones.trunks import Trunk
from lab.data.image_batches import ImageBatches
from lab.data.module import LabDataModule
from lab.data.resident import Batch, Chunk, minibatches
from lab.data.spec import DataSpec, TensorSpec
from lab.engine.loss import Loss, LossFunction, Metrics
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.engine.total_variation import total_variation
from lab.engine.updater import Updater
from lab.errors import UserError
from lab.experiment import ModuleConfig
from lab.pictures import Image, image_grid
from lab.training.learner import Learner, Monitor, StepMetrics, split_means


class AutoencoderConfig(ModuleConfig):
    """A stack of layers down to a code and a mirrored stack up again; squared error of the pixels."""

    kind: Literal["autoencoder"] = "autoencoder"
    layers: tuple[int, ...] = Field(default=(256, 64, 16), min_length=1)
    """units of each layer down to the code"""
    activation: Activation = "sigmoid"
    """of all layers but the code's and the last"""
    masking: float = Field(default=0.0, ge=0, lt=1)
    """share of the inputs set to 0 in training, to be restored: a denoising autoencoder"""
    total_variation: NonNegativeFloat = 0.0
    """weight of the anisotropic total variation of reconstructed images: the higher, the smoother"""
    pretraining: float = Field(default=0.0, ge=0, lt=1)
    """share of the budget for greedy layer-wise pretraining, the same for each layer"""
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, schedule=ScheduleConfig(name="cosine"))

    def build(self, spec: DataSpec) -> Autoencoder:
        return Autoencoder(self, spec)


class Layer(nn.Module):
    """One layer and its mirror image."""

    def __init__(self, num_in: int, num_out: int, config: AutoencoderConfig, code: bool, first: bool) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Linear(num_in, num_out), nn.Identity() if code else activation_layer(config.activation)
        )
        self.decode = nn.Sequential(
            nn.Linear(num_out, num_in), nn.Sigmoid() if first else activation_layer(config.activation)
        )


class Autoencoder(Learner[AutoencoderConfig]):
    """Trains a stack of Layers, one after the other and then together."""

    monitor = Monitor("eval/squared_error", "min")

    def __init__(self, config: AutoencoderConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not isinstance(spec.inputs, TensorSpec):
            raise UserError(f"module.kind='autoencoder' needs one tensor of inputs, not {spec.inputs!r}.")
        self.shape = spec.inputs.shape
        if config.total_variation and len(self.shape) != 3:
            raise UserError(
                f"module.total_variation={config.total_variation:g} is for images, not inputs of shape {self.shape}."
            )
        sizes = (math.prod(self.shape), *config.layers)
        self.layers = nn.ModuleList(
            Layer(num_in, num_out, config, code=i == len(sizes) - 2, first=i == 0)
            for i, (num_in, num_out) in enumerate(itertools.pairwise(sizes))
        )
        layer_optimizer = config.optimizer.model_copy(update={"rates": {}})  # its patterns name parameters of the whole
        self.layer_updaters = [
            self.add_updater(f"layer{i}", layer, self.layer_loss(i), layer_optimizer)
            for i, layer in enumerate(self.layers)
            if config.pretraining
        ]
        self.updater = self.add_updater("all", self.layers, self.loss, config.optimizer)
        self.progress = 0.0

    def trunks(self) -> list[Trunk]:
        """The layers before the code, which are an `mlp`; the code's has no activation."""
        hidden, first = self.config.layers[:-1], int(len(self.shape) != 1)
        tensors: dict[str, str] = {}
        for i, layer in enumerate(list(self.layers)[: len(hidden)]):
            for key in layer.encode.state_dict():  # type: ignore[union-attr]
                number, _, name = key.partition(".")
                tensors[f"net.{first + 2 * i + int(number)}.{name}"] = f"layers.{i}.encode.{key}"
        config = {"name": "mlp", "hidden": list(hidden), "activation": self.config.activation}
        return [Trunk("layers", config, tensors)] if hidden else []

    def encode(self, x: Tensor, num_layers: int | None = None) -> Tensor:
        """The output of the lowest `num_layers` layers, by default the code: (B, units)."""
        h = x.flatten(1)
        for layer in list(self.layers)[:num_layers]:
            h = layer.encode(h)  # type: ignore[operator]
        return h

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images like x (B, ...) decoded from their codes."""
        h = self.encode(x)
        for layer in reversed(list(self.layers)):
            h = layer.decode(h)  # type: ignore[operator]
        return h.view_as(x)

    def loss(self, batch: Batch) -> Loss:
        """Squared error of an image, mean over the minibatch, and if wanted the total variation of what is restored."""
        restored = self.reconstruct(self._corrupted(batch.x))
        error = _squared_error(restored, batch.x).mean()
        if not self.config.total_variation:
            return Loss(error, {"squared_error": error.detach()})
        variation = total_variation(restored).mean()
        metrics = {"squared_error": error.detach(), "total_variation": variation.detach()}
        return Loss(error + self.config.total_variation * variation, metrics)

    def layer_loss(self, index: int) -> LossFunction:
        """The loss of one layer, which reconstructs the output of the layers below; those stay as they are."""

        def loss(batch: Batch) -> Loss:
            with torch.no_grad():
                below = self.encode(batch.x, index)
            layer = self.layers[index]
            error = _squared_error(layer.decode(layer.encode(self._corrupted(below))), below).mean()  # type: ignore[operator]
            return Loss(error, {"layer_squared_error": error.detach()})

        return loss

    def set_progress(self, progress: float) -> None:
        """Each phase has a schedule of its own."""
        self.progress = progress
        self.phase_updater.set_progress(self.phase()[1])

    def follow_evaluation(self, value: float) -> None:
        """An evaluation tells of the phase in which it is."""
        self.phase_updater.follow_evaluation(value, self.monitor.mode)

    @property
    def phase_updater(self) -> Updater:
        """The updater of the phase."""
        phase, _ = self.phase()
        return self.updater if phase is None else self.layer_updaters[phase]

    def phase(self) -> tuple[int | None, float]:
        """The layer that is pretrained now, or None for all together, and the progress within the phase."""
        share = self.config.pretraining
        if self.progress >= share:
            return None, (self.progress - share) / (1 - share)
        within, index = math.modf(self.progress / share * len(self.layers))
        return int(index), within

    def training_step(self, chunk: Chunk, batch_idx: int = 0) -> StepMetrics:
        phase, _ = self.phase()
        return super().training_step(chunk) | {"charts/phase": float(len(self.layers) if phase is None else phase)}

    def update(self, batch: Batch) -> Metrics:
        metrics, _ = self.phase_updater.step(batch)
        return metrics

    def evaluate(self, data: LabDataModule, split: Literal["val", "test"] = "val", **options: Any) -> dict[str, float]:
        """Squared error of an image (sum over pixels), and the share of the pixels' variance that is explained."""
        assert isinstance(data, ImageBatches)
        error = split_means(data.batches(split), self.per_sample)["eval/squared_error"]
        x = torch.cat([x for x, _ in data.batches(split)])
        variance = float(_squared_error(x.mean(0, keepdim=True).expand_as(x), x).sum()) / len(x)
        return {"eval/squared_error": error, "eval/explained_variance": 1 - error / variance}

    def training_score(self, sample: Batch) -> tuple[Monitor, float]:
        return self.monitor, split_means(minibatches(sample), self.per_sample)[self.monitor.metric]

    def per_sample(self, batch: Batch) -> dict[str, Tensor]:
        """The squared error of each image, summed over its pixels: (B,)."""
        return {"eval/squared_error": _squared_error(self.reconstruct(batch.x), batch.x)}

    def pictures(self, data: LabDataModule) -> dict[str, Image]:
        assert isinstance(data, ImageBatches)
        x, _ = next(iter(data.batches("val", 32)))
        pairs = torch.stack([x, self.reconstruct(x)], dim=1)
        return {"reconstructions": image_grid(pairs.flatten(0, 1), 8)}

    def _corrupted(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.masking) * (1 - self.config.masking) if self.config.masking else x


def _squared_error(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).sum(1)
