"""VQ-VAE: images as grids of discrete codes (van den Oord, Vinyals and Kavukcuoglu 2017).

The codebook follows the vectors assigned to it: see `generative.latent.codebook`. A prior over the codes is a PixelCNN:
see `generative.latent.code_data`.

B images, K codes, D numbers in a code, C channels, H height, W width, h x w grid of codes, N vectors.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, SerializeAsAny
from torch import Tensor, nn

from generative.decoders import ConvDecoder, DecoderConfig
from generative.latent.codebook import Codebook, flattened, straight_through
from generative.latent.pixel_likelihoods import Likelihood, build_likelihood
from generative.learner import GenerativeLearner, OnProgress
from generative.likelihoods import bits_per_dim
from lab.backbones import BackboneConfig, build_backbone
from lab.data.image_batches import ImageBatches
from lab.data.module import LabDataModule
from lab.data.resident import Batch, minibatches
from lab.data.spec import DataSpec
from lab.engine.loss import Loss, Metrics
from lab.engine.optimizers import OptimizerConfig
from lab.errors import UserError
from lab.experiment import ModuleConfig
from lab.pictures import Image, image_grid
from lab.training.learner import Monitor, split_means


class VQVAEConfig(ModuleConfig):
    """An encoder to a grid of vectors, a codebook, a decoder from the nearest codes."""

    kind: Literal["vq_vae"] = "vq_vae"
    backbone: BackboneConfig = BackboneConfig(name="dcgan", channels=(32, 64), flatten=False)
    """the encoder's network; it must give a map (features, height, width)"""
    decoder: SerializeAsAny[DecoderConfig] = ConvDecoder(channels=(64, 32), norm="group")
    """as many doublings as the encoder has halvings"""
    num_codes: int = Field(default=128, ge=2)
    code_size: PositiveInt = 16
    """numbers in a code"""
    commitment: NonNegativeFloat = 0.25
    """weight of the squared distance from the encoder's vectors to their codes"""
    decay: float = Field(default=0.99, ge=0, lt=1)
    """of the running means that the codes are"""
    restart: NonNegativeFloat = 0.05
    """a code whose running count falls below this share of an even one starts anew; 0: never"""
    likelihood: Likelihood = "bernoulli"
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3)

    def build(self, spec: DataSpec) -> VQVAE:
        return VQVAE(self, spec)


class VQVAENet(nn.Module):
    """Images to a grid of vectors, vectors to the likelihood's parameters."""

    def __init__(self, config: VQVAEConfig, spec: DataSpec) -> None:
        super().__init__()
        self.backbone = build_backbone(config.backbone, spec.inputs.shape)  # type: ignore[union-attr]
        if len(self.backbone.output_shape) != 3:
            raise UserError(
                f"module.backbone.name={config.backbone.name!r} gives {self.backbone.output_shape}, not a map "
                f"(features, height, width); a VQ-VAE needs one, for example dcgan with flatten=false."
            )
        features, *self.grid = self.backbone.output_shape
        self.to_code = nn.Conv2d(features, config.code_size, 1)
        self.likelihood = build_likelihood(config.likelihood, spec.inputs)  # type: ignore[arg-type]
        self.decoder = config.decoder.build((config.code_size, *self.grid), self.likelihood.parameter_shape)

    def encode(self, x: Tensor) -> Tensor:
        """Vectors (B, D, h, w)."""
        out: Tensor = self.to_code(self.backbone(x))
        return out


class VQVAE(GenerativeLearner[VQVAEConfig]):
    """Trains a VQVAENet by gradient and a Codebook by running means."""

    monitor = Monitor("eval/elbo_nats", "max")

    def __init__(self, config: VQVAEConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.net = VQVAENet(config, spec)
        self.codebook = Codebook(config.num_codes, config.code_size, config.decay, config.restart)
        self.updater = self.add_updater("net", self.net, self.loss, config.optimizer)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the grid of codes."""
        height, width = self.net.grid
        return height, width

    def encode(self, x: Tensor) -> Tensor:
        """The codes (B, h, w) of images (B, C, H, W)."""
        vectors = self.net.encode(x)
        return self.codebook.nearest(flattened(vectors)).view(len(x), *self.grid)

    def decode(self, codes: Tensor) -> Tensor:
        """The likelihood's parameters for codes (B, h, w)."""
        parameters: Tensor = self.net.decoder(self.codebook.look_up(codes))
        return parameters

    # ------------------------------------------------------------------ training

    def loss(self, batch: Batch) -> Loss:
        """Negative log-likelihood of a reconstruction, plus the commitment; mean over the minibatch.

        The extras, vectors (N, D) of the encoder and their codes (N,), are what the codebook follows.
        """
        x = batch.x
        vectors = self.net.encode(x)
        flat = flattened(vectors)
        codes = self.codebook.nearest(flat.detach())
        quantized = self.codebook.look_up(codes.view(len(x), *self.grid))
        parameters = self.net.decoder(straight_through(vectors, quantized))
        distortion = -self.net.likelihood.log_prob(parameters, x).mean()
        commitment = (vectors - quantized).square().sum((1, 2, 3)).mean()
        share = torch.bincount(codes, minlength=self.config.num_codes) / len(codes)
        metrics = {
            "distortion_nats": distortion.detach(),
            "commitment": commitment.detach(),
            "perplexity": torch.special.entr(share).sum().exp(),
        }
        extras = {"vectors": flat.detach(), "codes": codes}
        return Loss(distortion + self.config.commitment * commitment, metrics, extras)

    def pass_on(self, batch: Batch) -> Tensor:
        return self.decode(self.encode(batch.x))

    def descended(self, name: str) -> None:
        """None: the gradient goes straight through the codes."""

    def update(self, batch: Batch) -> Metrics:
        """One step of the networks by gradient, then one of the codebook."""
        if not self.codebook.started:
            with torch.no_grad():
                self.codebook.start(flattened(self.net.encode(batch.x)))
        metrics, extras = self.updater.step(batch)
        self.codebook.follow(extras["vectors"], extras["codes"])
        return metrics

    # ------------------------------------------------------------------ evaluation and pictures

    def evaluate(self, data: LabDataModule, split: Literal["val", "test"] = "val", **options: Any) -> dict[str, float]:
        """The bound with all codes equally likely, -log p(x | codes) + h w log K, in nats an image, and its parts.

        eval/perplexity: exp of the entropy of the codes in the split; eval/used_codes: how many occur at all.
        """
        assert isinstance(data, ImageBatches)
        counts = torch.zeros(self.config.num_codes, device=self.device)

        def per_sample(batch: Batch) -> dict[str, Tensor]:
            codes = self.encode(batch.x)
            counts.add_(torch.bincount(codes.flatten(), minlength=self.config.num_codes))
            return self.per_sample(batch, codes)

        metrics = split_means(data.batches(split), per_sample)
        metrics["eval/elbo_nats"] = -metrics["eval/distortion_nats"] - self._rate
        metrics["eval/perplexity"] = float(torch.special.entr(counts / counts.sum()).sum().exp())
        metrics["eval/used_codes"] = float((counts > 0).sum())
        if self.net.likelihood.discrete:
            metrics["eval/bits_per_dim"] = bits_per_dim(-metrics["eval/elbo_nats"], self.image.numel)
        return metrics | self.test_distances(data, split)

    def training_score(self, sample: Batch) -> tuple[Monitor, float]:
        distortion = split_means(minibatches(sample), self.per_sample)["eval/distortion_nats"]
        return self.monitor, -distortion - self._rate

    @property
    def _rate(self) -> float:
        """Nats of an image's codes, all of which are equally likely."""
        return math.prod(self.grid) * math.log(self.config.num_codes)

    def per_sample(self, batch: Batch, codes: Tensor | None = None) -> dict[str, Tensor]:
        """Negative log-likelihood and squared error of each image decoded from its codes (B, h, w): (B,) each.

        By default they are those that the encoder gives.
        """
        parameters = self.decode(self.encode(batch.x) if codes is None else codes)
        error = self.net.likelihood.mean(parameters) - batch.x
        return {
            "eval/distortion_nats": -self.net.likelihood.log_prob(parameters, batch.x),
            "eval/squared_error": error.square().flatten(1).sum(1),
        }

    def sample(
        self,
        num: int,
        *,
        labels: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        on_progress: OnProgress | None = None,
    ) -> Tensor:
        """Mean images of codes drawn each by itself, as often as training uses them: the prior without a PixelCNN."""
        self.draw_labels(num, labels, generator)
        logits = self.codebook.counts.clamp(min=1e-9).log()
        if temperature == 0:
            codes = logits.argmax().expand(num, *self.grid)
        else:
            share = torch.softmax(logits / temperature, 0)
            codes = torch.multinomial(share, num * math.prod(self.grid), True, generator=generator)
        return self.net.likelihood.mean(self.decode(codes.reshape(num, *self.grid)))

    def pictures(self, data: LabDataModule) -> dict[str, Image]:
        """Originals beside reconstructions, beside the samples."""
        assert isinstance(data, ImageBatches)
        x, _ = next(iter(data.batches("val", 32)))
        pairs = torch.stack([x, self.net.likelihood.mean(self.decode(self.encode(x)))], dim=1)  # (N, 2, C, H, W)
        return {**super().pictures(data), "reconstructions": image_grid(pairs.flatten(0, 1), 8)}
