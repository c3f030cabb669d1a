"""Generative adversarial networks: losses, penalties, networks and conditioning as switches that combine freely.

Goodfellow et al. 2014 (non-saturating), Mao et al. 2017 (least squares), Lim and Ye 2017 (hinge), Arjovsky et al. 2017
and Gulrajani et al. 2017 (Wasserstein with gradient penalty), Mescheder et al. 2018 (R1), Miyato et al. 2018 (spectral
normalisation), Miyato and Koyama 2018 (projection discriminator), Yazici et al. 2019 (averaged generator).

B images, D latents, C channels, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, SerializeAsAny
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from generative.decoders import ConvDecoder, DecoderConfig, with_class
from generative.evaluation.distances import NEIGHBOURS, check_enough
from generative.learner import NUM_SAMPLES, LatentImageModel
from lab.backbones import BackboneConfig
from lab.backbones.features import Features
from lab.data.image_batches import ImageBatches
from lab.data.module import LabDataModule
from lab.data.resident import Batch, Chunk
from lab.data.spec import DataSpec
from lab.engine.loss import Loss, Metrics
from lab.engine.optimizers import OptimizerConfig
from lab.engine.torch_private import foreach_lerp_
from lab.engine.total_variation import total_variation
from lab.errors import UserError, unknown
from lab.experiment import AverageConfig, ModuleConfig
from lab.pictures import Image, image_grid
from lab.ranks import shared_noise
from lab.training.learner import Monitor, StepMetrics

Objective = Literal["non_saturating", "least_squares", "hinge", "wasserstein"]


class GANConfig(ModuleConfig):
    """A generator against a discriminator."""

    kind: Literal["gan"] = "gan"
    backbone: BackboneConfig = BackboneConfig(name="dcgan")
    """the discriminator's network before its last linear layer"""
    decoder: SerializeAsAny[DecoderConfig] = ConvDecoder()
    """the generator"""
    latents: PositiveInt = 64
    loss: Objective = "non_saturating"
    r1: NonNegativeFloat = 0.0
    """gamma of the penalty gamma / 2 * |gradient at real images|^2"""
    gradient_penalty: NonNegativeFloat = 0.0
    """weight of (|gradient between real and fake| - 1)^2; 10 for WGAN-GP"""
    penalty_period: PositiveInt = 1
    """penalties at every n-th discriminator update, n times as strong"""
    spectral_norm: bool = False
    """divide each of the discriminator's weights by its largest singular value"""
    total_variation: NonNegativeFloat = 0.0
    """weight of the anisotropic total variation of the generator's images in its loss: against single odd pixels"""
    conditional: bool = False
    """the class label goes into the generator, and as a projection into the discriminator"""
    discriminator_steps: PositiveInt = 1
    """discriminator updates for each generator update, each on a minibatch of its own"""
    ema: float = Field(default=0.999, ge=0, lt=1)
    """decay of the generator's running average, which is what samples; 0: the generator itself"""
    optimizer: OptimizerConfig = OptimizerConfig(lr=2e-4, betas=(0.5, 0.999))
    """the generator's"""
    discriminator_optimizer: OptimizerConfig = OptimizerConfig(lr=2e-4, betas=(0.5, 0.999))
    eval_images: int = Field(default=2000, gt=NEIGHBOURS)
    """samples behind the distances of an evaluation"""

    def build(self, spec: DataSpec) -> GAN:
        return GAN(self, spec)


# ------------------------------------------------------------------ losses


class ObjectiveFunctions(NamedTuple):
    """What both players descend, means over a minibatch.

    discriminator: its logits (B,) of real and of fake images -> ()
    generator: the discriminator's logits (B,) of the generator's images -> ()
    boundary: the logit above which the discriminator calls an image real
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    boundary: float = 0.0


OBJECTIVES: dict[Objective, ObjectiveFunctions] = {
    "non_saturating": ObjectiveFunctions(
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        lambda fake: F.softplus(-fake).mean(),
    ),
    "least_squares": ObjectiveFunctions(
        lambda real, fake: 0.5 * ((real - 1).square().mean() + fake.square().mean()),
        lambda fake: 0.5 * (fake - 1).square().mean(),
        boundary=0.5,
    ),
    "hinge": ObjectiveFunctions(
        lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        lambda fake: -fake.mean(),
    ),
    "wasserstein": ObjectiveFunctions(
        lambda real, fake: fake.mean() - real.mean(),
        lambda fake: -fake.mean(),
    ),
}


def objective(name: str) -> ObjectiveFunctions:
    """The objective of a name. Raises UserError for an unknown one."""
    if name not in OBJECTIVES:
        raise unknown("module.loss", name, OBJECTIVES)
    return OBJECTIVES[name]


def squared_gradient_norm(logits: Tensor, images: Tensor) -> Tensor:
    """|d logit / d image|^2 of each image (B,), differentiable in the discriminator's parameters."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.flatten(1).square().sum(1)


def with_monitors(metrics: StepMetrics) -> StepMetrics:
    """`metrics` and the monitors: 1.0 where something goes wrong.

    discriminator_wins: it tells more than 99 % of real and of fake images right, so that it teaches little.
    collapse: the fakes of a minibatch differ less than a quarter as much as real images do.
    """
    right = torch.stack([torch.as_tensor(metrics[f"losses/{name}_accuracy"]) for name in ("real", "fake")])
    monitors: StepMetrics = {"monitors/discriminator_wins": (right > 0.99).all().float()}
    if "losses/fake_spread" in metrics:
        fake, real = (torch.as_tensor(metrics[f"losses/{name}_spread"]) for name in ("fake", "real"))
        monitors["monitors/collapse"] = (fake < 0.25 * real).float()
    return metrics | monitors


# ------------------------------------------------------------------ networks


class Generator(nn.Module):
    """Latents (B, D) and classes to images (B, C, H, W) in [0, 1]."""

    def __init__(self, config: GANConfig, image_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes if config.conditional else 0
        self.decoder = config.decoder.build((config.latents + self.num_classes,), image_shape)

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        return torch.sigmoid(self.decoder(with_class(z, y, self.num_classes)))


class Discriminator(nn.Module):
    """Images (B, C, H, W) and classes to logits (B,): a linear layer plus, with classes, a projection."""

    def __init__(self, config: GANConfig, spec: DataSpec, num_classes: int) -> None:
        super().__init__()
        self.features = Features(config.backbone, spec.inputs.shape)  # type: ignore[union-attr]
        self.head = nn.Linear(self.features.num_features, 1)
        self.classes = nn.Embedding(num_classes, self.features.num_features) if config.conditional else None
        if config.spectral_norm:
            for module in list(self.modules()):
                if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
                    spectral_norm(module)

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        features = self.features(2 * x - 1)
        logits: Tensor = self.head(features)[:, 0]
        if self.classes is not None:
            assert y is not None
            logits = logits + (self.classes(y) * features).sum(1)
        return logits


# ------------------------------------------------------------------ training


class Contest(NamedTuple):
    """Real images x and fake ones (B, C, H, W), both of classes y (B,)."""

    x: Tensor
    fake: Tensor
    y: Tensor


class Fakes(NamedTuple):
    """Images (B, C, H, W) that carry the generator's gradient, of classes y (B,)."""

    fake: Tensor
    y: Tensor


class GAN(LatentImageModel[GANConfig]):
    """Trains a Discriminator and a Generator in turn; samples come from the generator's running average."""

    monitor = Monitor("eval/lenet_frechet_distance", "min")
    image_net_name = "generator"
    engines = ("eager",)

    def __init__(self, config: GANConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if self.num_classes < 2:
            raise UserError(
                "module.kind='gan' keeps the checkpoint of the smallest LeNet distance, which needs images with class "
                "labels; this data has none."
            )
        self.conditional = config.conditional
        self.objective = objective(config.loss)
        self.generator = Generator(config, self.image.shape, self.num_classes)
        self.discriminator = Discriminator(config, spec, self.num_classes)
        self.average = copy.deepcopy(self.generator).requires_grad_(False) if config.ema else self.generator
        self.discriminator_updater = self.add_updater(
            "discriminator", self.discriminator, self.discriminator_loss, config.discriminator_optimizer
        )
        self.generator_updater = self.add_updater("generator", self.generator, self.generator_loss, config.optimizer)

    def discriminator_loss(self, batch: Contest) -> Loss:
        """The objective, and the penalties at every `penalty_period`-th update; mean over the minibatch."""
        x, fake, y = batch
        config, labels, boundary = self.config, self.condition(y), self.objective.boundary
        penalize = self.discriminator_updater.num_updates % config.penalty_period == 0
        with_r1 = penalize and config.r1 > 0
        x = x.detach().requires_grad_() if with_r1 else x
        real_logits, fake_logits = self.discriminator(x, labels), self.discriminator(fake, labels)
        loss = self.objective.discriminator(real_logits, fake_logits)
        metrics = {
            "discriminator": loss.detach(),
            "real_accuracy": (real_logits > boundary).float().mean(),
            "fake_accuracy": (fake_logits <= boundary).float().mean(),
        }
        if with_r1:
            penalty = squared_gradient_norm(real_logits, x).mean()
            loss = loss + 0.5 * config.r1 * config.penalty_period * penalty
        if penalize and config.gradient_penalty > 0:
            share = shared_noise.rand(len(x), 1, 1, 1, device=x.device)
            between = (x + share * (fake - x)).detach().requires_grad_()
            norm = (squared_gradient_norm(self.discriminator(between, labels), between) + 1e-12).sqrt()
            loss = loss + config.gradient_penalty * config.penalty_period * (norm - 1).square().mean()
        return Loss(loss, metrics)

    def generator_loss(self, batch: Fakes) -> Loss:
        """The objective, mean over the minibatch, and if wanted the total variation of the images."""
        loss = self.objective.generator(self.discriminator(batch.fake, self.condition(batch.y)))
        # a batch whose images are all alike has no spread: the first sign of mode collapse
        metrics = {"generator": loss.detach(), "fake_spread": batch.fake.detach().std(0).mean()}
        if self.config.total_variation:
            variation = total_variation(batch.fake).mean()
            metrics["total_variation"] = variation.detach()
            loss = loss + self.config.total_variation * variation
        return Loss(loss, metrics)

    def set_average(self, config: AverageConfig | None) -> None:
        """Raises UserError where the generator has an average already."""
        if config is not None and self.config.ema:
            raise UserError(
                f"trainer.average={config.name!r} and module.ema={self.config.ema:g} both average the generator; "
                f"take one of both (module.ema=0)."
            )
        super().set_average(config)

    def pass_on(self, batch: Batch) -> Tensor:
        z, y = self.draw_latents(len(batch.x))
        logits: Tensor = self.discriminator(self.generator(z, y), y)
        return logits

    def training_step(self, chunk: Chunk, batch_idx: int = 0) -> StepMetrics:
        return with_monitors(super().training_step(chunk))

    def update(self, batch: Batch) -> Metrics:
        """One step of the discriminator on real images, and in its turn the generator's."""
        x, y = batch
        generator_turn = (self.discriminator_updater.num_updates + 1) % self.config.discriminator_steps == 0
        z = shared_noise.randn(len(x), self.num_latents, device=x.device)
        with torch.set_grad_enabled(generator_turn):
            fake = self.generator(z, self.condition(y))
        metrics, _ = self.discriminator_updater.step(Contest(x, fake.detach(), y))
        if generator_turn:
            metrics |= self.generator_updater.step(Fakes(fake, y))[0]
            self._update_average()
        return metrics | {"real_spread": x.std(0).mean()}

    def on_fit_start(self) -> None:
        check_enough(self.trainer.datamodule, "val")  # type: ignore[attr-defined]

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the average towards the generator; early on faster, so that the first weights are soon forgotten."""
        if not self.config.ema:
            return
        num_updates = self.generator_updater.num_updates
        weight = 1 - min(self.config.ema, (1 + num_updates) / (10 + num_updates))
        foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), weight)
        for average, value in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            average.copy_(value)

    # ------------------------------------------------------------------ evaluation and samples

    def evaluate(self, data: LabDataModule, split: Literal["val", "test"] = "val", **options: Any) -> dict[str, float]:
        """Distances of samples from the split (see generative.evaluation.distances); the test split gets all of them.

        Raises UserError for data without class labels, on which there is no feature network to train.
        """
        assert isinstance(data, ImageBatches)
        return self.distances(data, split, self.config.eval_images, full=split == "test")

    @property
    def num_latents(self) -> int:
        return self.config.latents

    @property
    def image_net(self) -> Generator:
        return self.average

    def images_of(self, z: Tensor, y: Tensor | None) -> Tensor:
        images: Tensor = self.average(z, y)
        return images

    def pictures(self, data: LabDataModule) -> dict[str, Image]:
        """What all latent models show, and samples of the generator itself beside those of its average."""
        pictures = super().pictures(data)
        if self.config.ema:
            latents = self.draw_latents(NUM_SAMPLES, labels=self.fixed_labels(), generator=self.fixed_generator())
            pictures["samples_raw"] = image_grid(self.generator(*latents), self.sample_columns)
        return pictures
