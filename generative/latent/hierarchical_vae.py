"""A VAE with two stochastic layers: p(x|z1) p(z1|z2) p(z2), q(z1|x) q(z2|z1) (Burda et al. 2016, section 3).

B images, K samples of the latents, D = D1 + D2 latents of both layers.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from generative import likelihoods
from generative.latent.vae import VAE, Encoded, VAEConfig, VAENet
from lab.backbones import BackboneConfig, build_backbone
from lab.data.spec import DataSpec
from lab.engine.loss import Loss
from lab.errors import UserError


class HierarchicalVAEConfig(VAEConfig):
    """A VAE with two layers of latents; `latents` are those next to the image."""

    kind: Literal["hierarchical_vae"] = "hierarchical_vae"  # type: ignore[assignment]
    latents: PositiveInt = 100
    top_latents: PositiveInt = 50
    hidden: tuple[int, ...] = Field(default=(100, 100), min_length=1)
    """of the two perceptrons between the layers"""

    def build(self, spec: DataSpec) -> HierarchicalVAE:
        if self.free_nats:
            raise UserError("module.free_nats is not for module.kind='hierarchical_vae': its KL has no closed form.")
        return HierarchicalVAE(self, spec)


class HierarchicalVAENet(VAENet):
    """A VAENet with two perceptrons between its latents and those above."""

    def __init__(self, config: HierarchicalVAEConfig, spec: DataSpec, num_classes: int) -> None:
        super().__init__(config, spec, num_classes)
        between = BackboneConfig(name="mlp", hidden=config.hidden, activation="tanh")
        self.up = nn.Sequential(
            build_backbone(between, (config.latents,)), nn.Linear(config.hidden[-1], 2 * config.top_latents)
        )
        self.down = nn.Sequential(
            build_backbone(between, (config.top_latents,)), nn.Linear(config.hidden[-1], 2 * config.latents)
        )

    def top_posterior(self, z1: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (..., D2) of q(z2|z1)."""
        return gaussian_of(self.up, z1)

    def prior(self, z2: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (..., D1) of p(z1|z2)."""
        return gaussian_of(self.down, z2)


def gaussian_of(net: nn.Module, z: Tensor) -> tuple[Tensor, Tensor]:
    """The halves of what `net` makes of z (..., D): mean and log-variance."""
    mean, log_variance = net(z.flatten(0, -2)).unflatten(0, z.shape[:-1]).chunk(2, dim=-1)
    return mean, log_variance


class HierarchicalVAE(VAE):
    """Trains a HierarchicalVAENet; its KL is sampled."""

    net: HierarchicalVAENet
    config: HierarchicalVAEConfig

    def build_net(self) -> VAENet:
        return HierarchicalVAENet(self.config, self.data_spec, self.num_classes)

    @property
    def num_latents(self) -> int:
        return self.config.latents + self.config.top_latents

    def terms(self, x: Tensor, y: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log p(z) - log q(z|x), (K, B) each, of samples made from noise (K, B, D)."""
        noise1, noise2 = noise.split([self.config.latents, self.config.top_latents], dim=-1)
        mean1, log_variance1 = self.net.encode(x, y)
        z1 = mean1 + noise1 * torch.exp(0.5 * log_variance1)  # (K, B, D1)
        mean2, log_variance2 = self.net.top_posterior(z1)
        z2 = mean2 + noise2 * torch.exp(0.5 * log_variance2)  # (K, B, D2)
        log_q = likelihoods.diagonal_gaussian_log_prob(z1, mean1, log_variance1)
        log_q = log_q + likelihoods.diagonal_gaussian_log_prob(z2, mean2, log_variance2)
        log_p = likelihoods.diagonal_gaussian_log_prob(z1, *self.net.prior(z2))
        log_p = log_p + likelihoods.standard_normal_log_prob(z2)
        repeated = None if y is None else y.expand(z1.shape[:2])
        return self.net.likelihood.log_prob(self.net.decode(z1, repeated), x), log_p - log_q

    def loss(self, batch: Encoded) -> Loss:
        x, y, noise, beta = batch
        log_px, log_ratio = self.terms(x, self.condition(y), noise)
        log_weights = log_px + beta * log_ratio
        iwae = self.config.objective == "iwae"
        bound = likelihoods.importance_weighted_bound(log_weights, dim=0) if iwae else log_weights
        distortion, rate = -log_px.detach().mean(), -log_ratio.detach().mean()
        metrics = {"bound_nats": -bound.detach().mean(), "distortion_nats": distortion, "kl_nats": rate}
        return Loss(-bound.mean(), metrics)

    def log_weights(self, x: Tensor, y: Tensor | None, num: int, generator: torch.Generator | None = None) -> Tensor:
        rows = self.rows_at_once(len(x))
        pieces = []
        for start in range(0, num, rows):
            shape = (min(rows, num - start), len(x), self.num_latents)
            log_px, log_ratio = self.terms(x, y, torch.randn(shape, generator=generator, device=x.device))
            pieces.append(log_px + log_ratio)
        return torch.cat(pieces)

    def distortion_and_rate(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        log_px, log_ratio = self.terms(x, y, torch.randn(1, len(x), self.num_latents, device=x.device))
        return -log_px[0], -log_ratio[0]

    def images_of(self, z: Tensor, y: Tensor | None) -> Tensor:
        """The mean images of latents z1 of p(z1|z2), made from noise beside z2: (N, D1 + D2) together."""
        noise1, z2 = z.split([self.config.latents, self.config.top_latents], dim=-1)
        mean, log_variance = self.net.prior(z2)
        z1 = mean + noise1 * torch.exp(0.5 * log_variance)
        return self.net.likelihood.mean(self.net.decode(z1, y))
