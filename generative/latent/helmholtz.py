"""A Helmholtz machine trained by wake-sleep (Hinton, Dayan, Frey and Neal 1995).

Binary units in layers. Recognition goes up, q(h_l | h_{l-1}); generation goes down from a top layer of independent
units, p(h_{l-1} | h_l). Wake: draw hidden states of an image by recognition, and teach generation to give the states
below from those above. Sleep: draw a fantasy by generation, and teach recognition to give the states that made it.
B images, K samples, L layers, D_l units of layer l (D_0 pixels).
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from generative.learner import GenerativeLearner, OnProgress
from generative.likelihoods import bits_per_dim, importance_weighted_bound
from lab.data.image_batches import ImageBatches
from lab.data.module import LabDataModule
from lab.data.resident import Batch
from lab.data.spec import DataSpec
from lab.engine.loss import Loss, Metrics
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.errors import UserError
from lab.experiment import ModuleConfig
from lab.training.learner import Monitor, split_means

_EVALUATION_ROWS = 1024
"""samples of the hidden states that go through the networks at once"""


class HelmholtzConfig(ModuleConfig):
    """A sigmoid belief network with a recognition network, trained by wake-sleep on binary images."""

    kind: Literal["helmholtz"] = "helmholtz"
    layers: tuple[int, ...] = Field(default=(64, 16), min_length=1)
    """units of each hidden layer, from the image up"""
    optimizer: OptimizerConfig = OptimizerConfig(lr=3e-3, schedule=ScheduleConfig(name="cosine"))
    eval_samples: PositiveInt = 50
    """importance samples for each image behind eval/nll_nats"""

    def build(self, spec: DataSpec) -> Helmholtz:
        return Helmholtz(self, spec)


class Pixels(NamedTuple):
    """Flat images (B, D_0) of bits."""

    x: Tensor


class Fantasies(NamedTuple):
    """States [x, h_1, ..., h_L], (B, D_l) each, side by side: (B, D_0 + ... + D_L)."""

    states: Tensor


class Helmholtz(GenerativeLearner[HelmholtzConfig]):
    """Recognition and generation as two stacks of linear layers over binary states."""

    monitor = Monitor("eval/nll_nats", "min")
    engines = ("eager",)

    def __init__(self, config: HelmholtzConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if self.image.levels != 2:
            raise UserError("module.kind='helmholtz' needs binary pixels; add data.binarize=threshold or dynamic.")
        self.sizes = sizes = (math.prod(self.image.shape), *config.layers)
        self.recognition = nn.ModuleList(nn.Linear(below, above) for below, above in itertools.pairwise(sizes))
        self.generation = nn.ModuleList(nn.Linear(above, below) for below, above in itertools.pairwise(sizes))
        self.top = nn.Parameter(torch.zeros(sizes[-1]))
        generative = nn.ModuleList([self.generation, nn.ParameterList([self.top])])
        self.wake_updater = self.add_updater("generation", generative, self.wake_loss, config.optimizer)
        self.sleep_updater = self.add_updater("recognition", self.recognition, self.sleep_loss, config.optimizer)

    # ------------------------------------------------------------------ the two networks

    def recognize(self, x: Tensor) -> list[Tensor]:
        """States [x, h_1, ..., h_L] of images x (..., D_0), drawn from the recognition network."""
        states = [x]
        for layer in self.recognition:
            states.append(torch.bernoulli(torch.sigmoid(layer(states[-1]))))
        return states

    def dream(self, num: int, generator: torch.Generator | None = None) -> list[Tensor]:
        """States [x, h_1, ..., h_L], (num, D_l) each, drawn from the generative network."""
        states = [torch.bernoulli(torch.sigmoid(self.top).expand(num, -1), generator=generator)]
        for layer in reversed(list(self.generation)):
            states.insert(0, torch.bernoulli(torch.sigmoid(layer(states[0])), generator=generator))
        return states

    def log_joint(self, states: list[Tensor]) -> Tensor:
        """log p(x, h_1, ..., h_L): (...)."""
        log_p = bits_log_prob(self.top.expand_as(states[-1]), states[-1])
        for layer, below, above in zip(self.generation, states, states[1:], strict=False):
            log_p = log_p + bits_log_prob(layer(above), below)
        return log_p

    def log_recognition(self, states: list[Tensor]) -> Tensor:
        """log q(h_1, ..., h_L | x): (...)."""
        parts = zip(self.recognition, states, states[1:], strict=False)
        return torch.stack([bits_log_prob(layer(below), above) for layer, below, above in parts]).sum(0)

    # ------------------------------------------------------------------ training

    def wake_loss(self, batch: Pixels) -> Loss:
        """-log p of the images with states drawn by recognition: descends the generative network's free energy."""
        with torch.no_grad():
            states = self.recognize(batch.x)
        loss = -self.log_joint(states).mean()
        return Loss(loss, {"wake": loss.detach()})

    def sleep_loss(self, batch: Fantasies) -> Loss:
        """-log q of the states behind fantasies."""
        loss = -self.log_recognition(list(batch.states.split(self.sizes, -1))).mean()
        return Loss(loss, {"sleep": loss.detach()})

    def update(self, batch: Batch) -> Metrics:
        """A wake step on images, then a sleep step on as many fantasies."""
        wake, _ = self.wake_updater.step(Pixels(batch.x.flatten(1)))
        with torch.no_grad():
            states = self.dream(len(batch.x))
        sleep, _ = self.sleep_updater.step(Fantasies(torch.cat(states, -1)))
        return wake | sleep

    # ------------------------------------------------------------------ evaluation and samples

    def log_weights(self, x: Tensor, num: int) -> Tensor:
        """log p(x, h) - log q(h|x) of `num` samples of the hidden states: (num, B)."""
        pieces, rows = [], max(1, _EVALUATION_ROWS // len(x))
        for start in range(0, num, rows):
            states = self.recognize(x.flatten(1).expand(min(rows, num - start), -1, -1))
            pieces.append(self.log_joint(states) - self.log_recognition(states))
        return torch.cat(pieces)

    def evaluate(self, data: LabDataModule, split: Literal["val", "test"] = "val", **options: Any) -> dict[str, float]:
        """ELBO and importance-weighted negative log-likelihood, in nats an image."""
        assert isinstance(data, ImageBatches)
        metrics = split_means(data.batches(split), self.per_sample)
        metrics["eval/bits_per_dim"] = bits_per_dim(metrics["eval/nll_nats"], self.image.numel)
        metrics["eval/importance_samples"] = float(self.config.eval_samples)
        return metrics | self.test_distances(data, split)

    def per_sample(self, batch: Batch) -> dict[str, Tensor]:
        """Importance-weighted negative log-likelihood and ELBO of each image: (B,) each."""
        log_weights = self.log_weights(batch.x, self.config.eval_samples).double()
        return {"eval/nll_nats": -importance_weighted_bound(log_weights, dim=0), "eval/elbo_nats": log_weights.mean(0)}

    def sample(
        self,
        num: int,
        *,
        labels: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        on_progress: OnProgress | None = None,
    ) -> Tensor:
        """Pixel probabilities of fantasies. Raises UserError for a temperature, which binary units have none of."""
        self.draw_labels(num, labels, generator)
        if temperature != 1.0:
            raise UserError("module.kind='helmholtz' has binary latents; it takes no temperature.")
        hidden = self.dream(num, generator)[1]
        return torch.sigmoid(self.generation[0](hidden)).view(num, *self.image.shape)


def bits_log_prob(logits: Tensor, bits: Tensor) -> Tensor:
    """log p of independent bits (..., D), summed over D: (...)."""
    return (bits * logits - F.softplus(logits)).sum(-1)
