"""Variational autoencoders.

Kingma and Welling 2014 (the VAE), Higgins et al. 2017 (beta), Kingma et al. 2016 (free bits), Burda et al. 2016 (IWAE),
Sohn et al. 2015 (conditional). B images, K samples of the latents, D latents, C channels, H height, W width.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, SerializeAsAny
from torch import Tensor, nn

from generative import likelihoods
from generative.decoders import ConvDecoder, DecoderConfig, MlpDecoder, with_class
from generative.features import ImageFeatures
from generative.generator import GenerativeLearner, Progress, slerp
from generative.grids import Image, image_grid
from generative.pixels import Likelihood, build_likelihood
from lab.backbones import BackboneConfig
from lab.data.images import ImageData, ImageModule
from lab.data.module import LabDataModule
from lab.data.resident import Chunk
from lab.data.spec import DataSpec
from lab.experiment import Experiment, ModuleConfig, TrainerConfig
from lab.learner import Monitor, StepMetrics, means
from lab.optim import Metrics, OptimizerConfig, ScheduleConfig

_EVALUATION_ROWS = 1024
"""latent samples that go through the decoder at once: large enough for full speed, small enough for the cache"""


class VAEConfig(ModuleConfig):
    """A VAE with a Gaussian posterior and a standard normal prior."""

    kind: Literal["vae"] = "vae"
    backbone: BackboneConfig = BackboneConfig(name="mlp", hidden=(512,))
    """the encoder's network before the two linear layers that give the posterior"""
    decoder: SerializeAsAny[DecoderConfig] = MlpDecoder()
    latents: PositiveInt = 16
    likelihood: Likelihood = "bernoulli"
    objective: Literal["elbo", "iwae"] = "elbo"
    """elbo: analytic KL, mean over samples; iwae: the importance-weighted bound of `samples` samples"""
    samples: PositiveInt = 1
    """samples of the latents for each image in training"""
    beta: NonNegativeFloat = 1.0
    """weight of the KL; 1 is the ELBO"""
    beta_warmup: float = Field(default=0.0, ge=0, le=1)
    """share of the budget over which beta rises linearly from 0"""
    free_nats: NonNegativeFloat = 0.0
    """nats in each latent that cost nothing (mean over the minibatch)"""
    conditional: bool = False
    """give the class label to encoder and decoder"""
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3)
    eval_samples: PositiveInt = 16
    """importance samples for each image behind eval/nll_nats; the papers report 5,000"""

    def build(self, spec: DataSpec) -> VAE:
        return VAE(self, spec)


class VAENet(nn.Module):
    """Encoder and decoder. `y` are labels (B,), or None where the model is not conditional."""

    def __init__(self, config: VAEConfig, spec: DataSpec, num_classes: int) -> None:
        super().__init__()
        self.features = ImageFeatures(config.backbone, spec.inputs)  # type: ignore[arg-type]
        self.num_classes = num_classes if config.conditional else 0
        self.posterior = nn.Linear(self.features.num_features + self.num_classes, 2 * config.latents)
        self.likelihood = build_likelihood(config.likelihood, spec.inputs)  # type: ignore[arg-type]
        self.decoder = config.decoder.build(config.latents + self.num_classes, self.likelihood.parameter_shape)

    def encode(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, D) of the posterior."""
        posterior = self.posterior(with_class(self.features(x), y, self.num_classes))
        mean, log_variance = posterior.chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor, y: Tensor | None) -> Tensor:
        """The likelihood's parameters (..., P, H, W) for latents (..., D) and labels (...)."""
        flat = z.flatten(0, -2)
        parameters: Tensor = self.decoder(with_class(flat, None if y is None else y.flatten(), self.num_classes))
        return parameters.unflatten(0, z.shape[:-1])


class VAE(GenerativeLearner):
    """Trains a VAENet."""

    monitor = Monitor("eval/elbo_nats", "max")
    can_interpolate = True

    def __init__(self, config: VAEConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.settings, self.conditional = config, config.conditional
        self.net = self.build_net()
        self.updater = self.add_updater("net", self.net, self.loss, config.optimizer)
        self._beta = torch.tensor(config.beta)

    def build_net(self) -> VAENet:
        """The networks."""
        return VAENet(self.settings, self.data_spec, self.num_classes)

    @property
    def noise_size(self) -> int:
        """How many standard normal numbers one sample of the latents takes."""
        return self.settings.latents

    # ------------------------------------------------------------------ training

    def loss(self, x: Tensor, y: Tensor, noise: Tensor, beta: Tensor) -> tuple[Tensor, Metrics]:
        """The negative bound, mean over the minibatch; noise (K, B, D)."""
        labels = y if self.conditional else None
        mean, log_variance = self.net.encode(x, labels)
        z = mean + noise * torch.exp(0.5 * log_variance)  # (K, B, D)
        repeated = None if labels is None else labels.expand(z.shape[:2])
        log_px = self.net.likelihood.log_prob(self.net.decode(z, repeated), x)  # (K, B)
        kl = likelihoods.gaussian_kl(mean, log_variance)  # (B, D)
        if self.settings.objective == "iwae":
            log_qz = likelihoods.diagonal_gaussian_log_prob(z, mean, log_variance)
            log_weights = log_px + beta * (likelihoods.standard_normal_log_prob(z) - log_qz)
            loss = -likelihoods.importance_weighted_bound(log_weights, dim=0).mean()
        else:
            cost = kl.mean(0).clamp(min=self.settings.free_nats).sum() if self.settings.free_nats else kl.sum(1).mean()
            loss = beta * cost - log_px.mean()
        distortion, rate = -log_px.detach().mean(), kl.detach().sum(1).mean()
        return loss, {"bound_nats": loss.detach(), "distortion_nats": distortion, "kl_nats": rate}

    def set_progress(self, progress: float) -> None:
        super().set_progress(progress)
        warmup = self.settings.beta_warmup
        share = min(progress / warmup, 1.0) if warmup else 1.0
        self._beta = torch.tensor(self.settings.beta * share, device=self.device)

    def training_step(self, chunk: Chunk, batch_idx: int = 0) -> StepMetrics:
        rows = []
        for x, y in chunk:
            noise = torch.randn(self.settings.samples, len(x), self.noise_size, device=x.device)
            rows.append(self.updater.step(x, y, noise, self._beta))
            self.counters["samples"] += len(x)
            self.counters["updates"] += 1
        return means(rows)

    # ------------------------------------------------------------------ evaluation

    def log_weights(self, x: Tensor, y: Tensor | None, num: int, generator: torch.Generator | None = None) -> Tensor:
        """log p(x, z) - log q(z|x) of `num` samples for each image: (num, B). Encodes once, decodes in pieces."""
        mean, log_variance = self.net.encode(x, y)
        scale = torch.exp(0.5 * log_variance)
        pieces = []
        rows = self.rows_at_once(len(x))
        for start in range(0, num, rows):
            shape = (min(rows, num - start), *mean.shape)
            noise = torch.randn(shape, generator=generator, device=x.device)
            z = mean + noise * scale  # (K, B, D)
            log_px = self.net.likelihood.log_prob(self.net.decode(z, None if y is None else y.expand(shape[:2])), x)
            # log p(z) - log q(z|x): the constants cancel
            log_ratio = 0.5 * (noise.square() - z.square() + log_variance).sum(-1)
            pieces.append(log_px + log_ratio)
        return torch.cat(pieces)

    @staticmethod
    def rows_at_once(num_images: int) -> int:
        """Samples an image that go through the decoder together."""
        return max(1, _EVALUATION_ROWS // num_images)

    def evaluate(self, data: LabDataModule, split: Literal["val", "test"] = "val", **options: Any) -> dict[str, float]:
        """ELBO (one sample, analytic KL) and importance-weighted negative log-likelihood, in nats an image.

        With the Gaussian likelihood these are densities of pixels in [0, 1]; there are no bits per dimension then.
        """
        assert isinstance(data, ImageModule)
        elbo = nll = kl = total = 0.0
        batch_size = max(1, min(500, 64 * _EVALUATION_ROWS // self.settings.eval_samples))
        for x, labels in data.batches(split, batch_size):
            y = labels if self.conditional else None
            distortion, rate = self.distortion_and_rate(x, y)
            elbo -= float((distortion + rate).sum())
            kl += float(rate.sum())
            log_weights = self.log_weights(x, y, self.settings.eval_samples)
            nll -= float(likelihoods.importance_weighted_bound(log_weights, dim=0).double().sum())
            total += len(x)
        metrics = {"eval/elbo_nats": elbo / total, "eval/nll_nats": nll / total, "eval/kl_nats": kl / total}
        if self.net.likelihood.discrete:
            metrics["eval/bits_per_dim"] = likelihoods.bits_per_dim(nll / total, math.prod(self.image.shape))
        return metrics | {"eval/importance_samples": float(self.settings.eval_samples)}

    def distortion_and_rate(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """-log p(x|z) of one sample of the latents, and the KL: (B,) each; their sum is the negative ELBO."""
        mean, log_variance = self.net.encode(x, y)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return -self.net.likelihood.log_prob(self.net.decode(z, y), x), likelihoods.gaussian_kl(mean, log_variance).sum(
            1
        )

    # ------------------------------------------------------------------ pictures

    def decoded(self, z: Tensor, y: Tensor | None) -> Tensor:
        """The mean image (N, C, H, W) of prior noise (N, D), here the latents themselves."""
        return self.net.likelihood.mean(self.net.decode(z, y))

    def sample(
        self,
        num: int,
        *,
        labels: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Mean images of latents drawn from the prior, whose standard deviation is `temperature`."""
        y = self.draw_labels(num, labels, generator)
        z = temperature * torch.randn(num, self.noise_size, generator=generator, device=self.device)
        return self.decoded(z, y)

    def interpolate(self, num: int, steps: int, *, generator: torch.Generator | None = None) -> Tensor:
        y = self.draw_labels(num, None, generator)
        ends = torch.randn(2, num, self.noise_size, generator=generator, device=self.device)
        z = slerp(ends[0], ends[1], steps)  # (num, steps, D)
        repeated = None if y is None else y[:, None].expand(num, steps).flatten()
        return self.decoded(z.flatten(0, 1), repeated).unflatten(0, (num, steps))

    def pictures(self, data: LabDataModule) -> dict[str, Image]:
        assert isinstance(data, ImageModule)
        x, labels = next(iter(data.batches("val", 32)))
        y = labels if self.conditional else None
        again = self.net.likelihood.mean(self.net.decode(self.net.encode(x, y)[0], y))
        pairs = torch.stack([x, again], dim=1)  # (N, 2, C, H, W)
        return {**super().pictures(data), "reconstructions": image_grid(pairs.flatten(0, 1), 8)}


# ---------------------------------------------------------------------- recipes


def digits() -> Experiment:
    """A VAE of grey levels on the embedded 8x8 digits: 86.8 nats, 1.96 bits per dimension in 20 s on one core."""
    return Experiment(
        name="vae/digits",
        data=ImageData(name="digits", batch_size=64, batches_per_step=25),
        module=VAEConfig(
            backbone=BackboneConfig(name="mlp", hidden=(256, 256)),
            decoder=MlpDecoder(hidden=(256, 256)),
            latents=6,
            likelihood="logistic",
            beta=1.3,
            beta_warmup=0.1,
            optimizer=OptimizerConfig(lr=1e-3, max_grad_norm=100.0, schedule=ScheduleConfig(name="cosine")),
        ),
        trainer=TrainerConfig(budget=400_000, eval_period=40_000),
    )


def mnist() -> Experiment:
    """The VAE of 820 k parameters on dynamically binarized MNIST from LAB_DATA."""
    return Experiment(
        name="vae/mnist",
        data=ImageData(name="mnist", binarize="dynamic", batch_size=128, batches_per_step=20, validation=1 / 12),
        module=VAEConfig(optimizer=OptimizerConfig(lr=1e-3, schedule=ScheduleConfig(name="cosine"))),
        trainer=TrainerConfig(budget=1_500_000, eval_period=150_000),
    )


def mnist_static() -> Experiment:
    """The network of the IWAE paper (two layers of 200, 50 latents) on static binarized MNIST from LAB_DATA."""
    return Experiment(
        name="vae/mnist-static",
        data=ImageData(name="binarized-mnist", batch_size=100, batches_per_step=20),
        module=VAEConfig(
            backbone=BackboneConfig(name="mlp", hidden=(200, 200), activation="tanh"),
            decoder=MlpDecoder(hidden=(200, 200), activation="tanh"),
            latents=50,
            optimizer=OptimizerConfig(lr=1e-3, schedule=ScheduleConfig(name="cosine")),
        ),
        trainer=TrainerConfig(budget=10_000_000, eval_period=500_000),
    )


def mnist_conv() -> Experiment:
    """A residual encoder and a convolutional decoder on dynamically binarized MNIST from LAB_DATA."""
    return Experiment(
        name="vae/mnist-conv",
        data=ImageData(name="mnist", binarize="dynamic", batch_size=128, batches_per_step=10, validation=1 / 12),
        module=VAEConfig(
            backbone=BackboneConfig(name="resnet", channels=(16, 32, 64)),
            decoder=ConvDecoder(channels=(64, 32), norm="group"),
            latents=32,
            optimizer=OptimizerConfig(lr=2e-3, max_grad_norm=100.0, schedule=ScheduleConfig(name="cosine")),
        ),
        trainer=TrainerConfig(budget=600_000, eval_period=100_000),
    )
