"""Variational autoencoders.

Kingma and Welling 2014 (the VAE), Higgins et al. 2017 (beta), Kingma et al. 2016 (free bits), Burda et al. 2016 (IWAE),
Sohn et al. 2015 (conditional).

B images, K samples of the latents, D latents, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, SerializeAsAny
from torch import Tensor, nn

from generative import likelihoods
from generative.decoders import DecoderConfig, MlpDecoder, with_class
from generative.evaluation.feature_nets import split_arrays
from generative.latent.pixel_likelihoods import Likelihood, build_likelihood
from generative.learner import LatentImageModel
from lab.backbones import BackboneConfig
from lab.backbones.features import Features
from lab.data.image_batches import ImageBatches
from lab.data.module import LabDataModule
from lab.data.resident import Batch, minibatches
from lab.data.spec import DataSpec
from lab.data.targets import Classes
from lab.engine.loss import Loss, Metrics
from lab.engine.optimizers import OptimizerConfig
from lab.experiment import ModuleConfig
from lab.pictures import Image, image_grid, scatter, two_axes
from lab.ranks import shared_noise
from lab.training.learner import Monitor, split_means

_COLLAPSED_NATS = 0.1
_EVALUATION_ROWS = 1024
"""latent samples that go through the decoder at once: large enough for full speed, small enough for the cache"""
NUM_MAPPED = 2000
"""validation images on the map of codes"""
TRAVERSAL_STEPS = 9


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


class Encoded(NamedTuple):
    """Images x (B, C, H, W) and classes y (B,), the noise (K, B, D) of the latents, and the weight () of the KL."""

    x: Tensor
    y: Tensor
    noise: Tensor
    beta: Tensor


class VAENet(nn.Module):
    """Encoder and decoder. `y` are labels (B,), or None where the model is not conditional."""

    def __init__(self, config: VAEConfig, spec: DataSpec, num_classes: int) -> None:
        super().__init__()
        self.features = Features(config.backbone, spec.inputs.shape)  # type: ignore[union-attr]
        self.num_classes = num_classes if config.conditional else 0
        self.posterior = nn.Linear(self.features.num_features + self.num_classes, 2 * config.latents)
        self.likelihood = build_likelihood(config.likelihood, spec.inputs)  # type: ignore[arg-type]
        self.decoder = config.decoder.build((config.latents + self.num_classes,), self.likelihood.parameter_shape)

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


class VAE(LatentImageModel[VAEConfig]):
    """Trains a VAENet."""

    monitor = Monitor("eval/elbo_nats", "max")
    image_net_name = "decoder"
    distance_images = 5000

    def __init__(self, config: VAEConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.conditional = config.conditional
        self.net = self.build_net()
        self.updater = self.add_updater("net", self.net, self.loss, config.optimizer)
        self._beta_value, self._beta = config.beta, torch.tensor(config.beta)

    def build_net(self) -> VAENet:
        """The networks."""
        return VAENet(self.config, self.data_spec, self.num_classes)

    # ------------------------------------------------------------------ training

    def loss(self, batch: Encoded) -> Loss:
        """The negative bound, mean over the minibatch."""
        x, y, noise, beta = batch
        labels = self.condition(y)
        mean, log_variance = self.net.encode(x, labels)
        z = mean + noise * torch.exp(0.5 * log_variance)  # (K, B, D)
        repeated = None if labels is None else labels.expand(z.shape[:2])
        log_px = self.net.likelihood.log_prob(self.net.decode(z, repeated), x)  # (K, B)
        kl = likelihoods.gaussian_kl(mean, log_variance)  # (B, D)
        if self.config.objective == "iwae":
            log_qz = likelihoods.diagonal_gaussian_log_prob(z, mean, log_variance)
            log_weights = log_px + beta * (likelihoods.standard_normal_log_prob(z) - log_qz)
            loss = -likelihoods.importance_weighted_bound(log_weights, dim=0).mean()
        else:
            cost = kl.mean(0).clamp(min=self.config.free_nats).sum() if self.config.free_nats else kl.sum(1).mean()
            loss = beta * cost - log_px.mean()
        distortion, rate = -log_px.detach().mean(), kl.detach().sum(1).mean()
        return Loss(loss, {"bound_nats": loss.detach(), "distortion_nats": distortion, "kl_nats": rate})

    def set_progress(self, progress: float) -> None:
        super().set_progress(progress)
        warmup = self.config.beta_warmup
        beta = self.config.beta * (min(progress / warmup, 1.0) if warmup else 1.0)
        if beta != self._beta_value or self._beta.device != self.device:
            self._beta_value, self._beta = beta, torch.tensor(beta, device=self.device)

    def update(self, batch: Batch) -> Metrics:
        x, y = batch
        noise = shared_noise.randn(self.config.samples, len(x), self.num_latents, dim=1, device=x.device)
        return super().update(Encoded(x, y, noise, self._beta))

    # ------------------------------------------------------------------ evaluation

    def pass_on(self, batch: Batch) -> Tensor:
        """What is decoded of the posterior's means."""
        y = self.condition(batch.y)
        return self.net.decode(self.net.encode(batch.x, y)[0], y)

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
        assert isinstance(data, ImageBatches)
        batch_size = max(1, min(500, 64 * _EVALUATION_ROWS // self.config.eval_samples))
        metrics = split_means(data.batches(split, batch_size), self.per_sample)
        if metrics["eval/kl_nats"] < _COLLAPSED_NATS and self.counters["samples"]:
            self.warn_once(
                "collapsed posterior",
                f"the posterior has collapsed to the prior: latents tell {metrics['eval/kl_nats']:.2g} nats of an "
                f"image. Warm the bound up (module.beta_warmup), keep some (module.free_nats), or lower module.beta",
            )
        if self.net.likelihood.discrete:
            metrics["eval/bits_per_dim"] = likelihoods.bits_per_dim(metrics["eval/nll_nats"], self.image.numel)
        metrics["eval/importance_samples"] = float(self.config.eval_samples)
        return metrics | self.test_distances(data, split)

    def training_score(self, sample: Batch) -> tuple[Monitor, float]:
        def elbo(batch: Batch) -> dict[str, Tensor]:
            distortion, rate = self.distortion_and_rate(batch.x, self.condition(batch.y))
            return {"eval/elbo_nats": -(distortion + rate)}

        return Monitor("eval/elbo_nats", "max"), split_means(minibatches(sample), elbo)["eval/elbo_nats"]

    def per_sample(self, batch: Batch) -> dict[str, Tensor]:
        """ELBO, KL and importance-weighted negative log-likelihood of each image: (B,) each."""
        y = self.condition(batch.y)
        distortion, rate = self.distortion_and_rate(batch.x, y)
        log_weights = self.log_weights(batch.x, y, self.config.eval_samples)
        nll = -likelihoods.importance_weighted_bound(log_weights, dim=0)
        return {"eval/elbo_nats": -(distortion + rate), "eval/nll_nats": nll, "eval/kl_nats": rate}

    def distortion_and_rate(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """-log p(x|z) of one sample of the latents, and the KL: (B,) each; their sum is the negative ELBO."""
        mean, log_variance = self.net.encode(x, y)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        distortion = -self.net.likelihood.log_prob(self.net.decode(z, y), x)
        return distortion, likelihoods.gaussian_kl(mean, log_variance).sum(1)

    # ------------------------------------------------------------------ samples and pictures

    @property
    def num_latents(self) -> int:
        return self.config.latents

    @property
    def image_net(self) -> VAENet:
        return self.net

    def images_of(self, z: Tensor, y: Tensor | None) -> Tensor:
        """The mean images of latents z."""
        return self.net.likelihood.mean(self.net.decode(z, y))

    def codes(self, x: Tensor, y: Tensor | None) -> Tensor:
        """The posterior's mean (B, D) for each image: of the latents next to the image, where there are several."""
        return self.net.encode(x, y)[0]

    def pictures(self, data: LabDataModule) -> dict[str, Image]:
        """What all latent models show, and: reconstructions beside their originals; the codes of validation images on a
        map, coloured by class; the latents that vary most over them, each gone through around an image's code."""
        assert isinstance(data, ImageBatches)
        x, labels = split_arrays(data, "val", NUM_MAPPED)
        y = self.condition(labels)
        parts = torch.arange(len(x)).split(500)
        codes = torch.cat([self.codes(x[part], None if y is None else y[part]) for part in parts])
        first = slice(0, 32)
        again = self.net.likelihood.mean(self.net.decode(codes[first], None if y is None else y[first]))
        pairs = torch.stack([x[first], again], dim=1)  # (N, 2, C, H, W)
        names = data.spec.target.names if isinstance(data.spec.target, Classes) else ()
        return {
            **super().pictures(data),
            "reconstructions": image_grid(pairs.flatten(0, 1), 8),
            "latent_map": scatter(two_axes(codes), labels, names),
            "traversal": image_grid(self.traversal(codes, None if y is None else y[:1]), TRAVERSAL_STEPS),
        }

    def traversal(self, codes: Tensor, label: Tensor | None, num: int = 8) -> Tensor:
        """Images (rows * TRAVERSAL_STEPS, C, H, W): row i moves the first of codes (N, D) along one latent.

        The latents are the `num` whose means vary most over the images (an unused one stays at the prior's mean), from
        -3 to 3 of the prior's standard deviations; `label` (1,) is the class where the model is conditional.
        """
        latents = codes.var(0).topk(min(num, codes.shape[1])).indices  # (rows,)
        z = codes[0].expand(len(latents), TRAVERSAL_STEPS, -1).clone()  # (rows, steps, D)
        rows, values = torch.arange(len(latents), device=z.device), torch.linspace(-3, 3, TRAVERSAL_STEPS)
        z[rows, :, latents] = values.to(z.device)
        z = z.flatten(0, 1)
        return self.net.likelihood.mean(self.net.decode(z, None if label is None else label.expand(len(z))))
