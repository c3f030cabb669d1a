"""Autoregressive image models: exact likelihoods from masked networks (van den Oord et al. 2016, twice).

log p(x) = sum over pixels of log p(x_i | x_1, ..., x_{i-1}): a causal backbone gives every pixel features of the pixels
before it, a head turns them into a distribution. The backbone is any registered one that is causal: `pixelcnn`,
`gated_pixelcnn` and their relatives.

N images, B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from generative.autoregressive.backbones.causal import Causal
from generative.autoregressive.heads import CategoricalHead, Head, LogisticMixtureHead
from generative.autoregressive.sampling import Backend, KnownPixels, SampleRequest, sample
from generative.learner import GenerativeLearner, OnProgress
from generative.likelihoods import bits_per_dim
from lab.backbones import BackboneConfig, build_backbone
from lab.data.image_batches import ImageBatches
from lab.data.module import LabDataModule
from lab.data.resident import Batch, minibatches
from lab.data.spec import DataSpec, TensorSpec
from lab.engine.loss import Loss
from lab.engine.optimizers import OptimizerConfig
from lab.errors import UserError
from lab.experiment import ModuleConfig
from lab.pictures import Image, image_grid
from lab.training.learner import Monitor, split_means

SAMPLES_AT_ONCE = 256
NUM_COMPLETED = 6
"""validation images whose lower halves a picture completes"""
CACHED_PIXELS = 2**15
"""pixels whose feature maps in float32, of 16 to 32 channels, lie in a core's cache"""


class PixelCNNConfig(ModuleConfig):
    """Autoregressive image model: a causal backbone and an output distribution."""

    kind: Literal["pixelcnn"] = "pixelcnn"
    backbone: BackboneConfig = BackboneConfig(name="gated_pixelcnn")
    output: Literal["categorical", "logistic_mixture"] = "categorical"
    """any distribution over the levels (binary data: Bernoulli), or a mixture of discretized logistics"""
    hidden: PositiveInt = 32
    """categorical: hidden units before the output, a channel"""
    components: PositiveInt = 5
    """logistic_mixture: components of the mixture"""
    conditional: bool = False
    """condition on the class label"""
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, max_grad_norm=1.0)

    def build(self, spec: DataSpec) -> AutoregressiveImageModel:
        return AutoregressiveImageModel(self, spec)


class PixelNet(nn.Module):
    """The backbone and the head: log-likelihoods (B, H, W) of the pixels of images (B, C, H, W) in [0, 1]."""

    def __init__(self, config: PixelCNNConfig, image: TensorSpec, num_classes: int) -> None:
        super().__init__()
        backbone = config.backbone
        if config.conditional:
            backbone = BackboneConfig(**{**backbone.model_dump(), "context": num_classes})
        self.num_classes = num_classes
        self.backbone = build_backbone(backbone, image.shape)
        if not isinstance(self.backbone.net, Causal):
            raise UserError(
                f"module.backbone.name={backbone.name!r} sees the pixel that it should predict; "
                f"it needs a causal one, such as pixelcnn or gated_pixelcnn."
            )
        levels = getattr(self.backbone.net, "levels", image.levels)
        if levels != image.levels:
            raise UserError(f"module.backbone.levels={levels} is not the {image.levels} levels of the data's pixels.")
        features, channels = self.backbone.output_shape[0], image.shape[0]
        self.head: Head
        if config.output == "categorical":
            self.head = CategoricalHead(features, channels, image.levels, config.hidden)
        else:
            self.head = LogisticMixtureHead(features, channels, image.levels, config.components)

    @property
    def causal(self) -> Causal:
        """The backbone's network."""
        return cast(Causal, self.backbone.net)

    def features(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Features (B, F, H, W), each of the pixels before its own."""
        features: Tensor = self.backbone(x) if context is None else self.backbone(x, context)
        return features

    def context(self, labels: Tensor | None) -> Tensor | None:
        """Class labels (B,) as vectors (B, K)."""
        if labels is None:
            return None
        classes = torch.arange(self.num_classes, device=labels.device)
        return (labels[:, None] == classes).to(next(self.parameters()).dtype)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        parts = num_parts(x)
        if parts == 1:
            return self.log_prob(x, labels)
        pairs = zip(
            x.tensor_split(parts), [None] * parts if labels is None else labels.tensor_split(parts), strict=True
        )
        return torch.cat([self.log_prob(part, part_labels) for part, part_labels in pairs])

    def log_prob(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """`forward` in one piece; under bf16 the head still works in the precision of the image."""
        features = self.features(x, self.context(labels))
        with torch.autocast(x.device.type, enabled=False):
            return self.head.log_prob(self.head.prepare(features.to(x.dtype)), x)


def num_parts(x: Tensor) -> int:
    """In how many pieces images (B, C, H, W) are best done: on a CPU feature maps ought to stay in the cache."""
    if x.device.type != "cpu":
        return 1
    pixels_at_once = CACHED_PIXELS * (2 if torch.is_autocast_enabled("cpu") else 1)
    return min(len(x), max(1, -(-x[:, 0].numel() // pixels_at_once)))


class AutoregressiveImageModel(GenerativeLearner[PixelCNNConfig]):
    """Trains a PixelNet by maximum likelihood."""

    monitor = Monitor("eval/nll_nats", "min")
    auto_engine = "traced"
    distance_images = 500

    def __init__(self, config: PixelCNNConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if self.image.levels < 2:
            raise UserError(f"module.kind='pixelcnn' needs pixels on a number of levels, not {self.image!r}.")
        self.conditional = config.conditional
        if self.conditional and self.num_classes < 2:
            raise UserError("module.conditional=true needs data with class labels.")
        self.net = PixelNet(config, self.image, self.num_classes)
        self.updater = self.add_updater("net", self.net, self.loss, config.optimizer)

    def loss(self, batch: Batch) -> Loss:
        """Negative log-likelihood a pixel value, mean over the minibatch."""
        nats = -self.net(batch.x, self.condition(batch.y)).flatten(1).sum(1).mean()
        return Loss(nats / self.image.numel, {"nll_nats": nats.detach()})

    def evaluate(self, data: LabDataModule, split: Literal["val", "test"] = "val", **options: Any) -> dict[str, float]:
        """The exact negative log-likelihood of a split: nats an image, bits a dimension."""
        assert isinstance(data, ImageBatches)
        metrics = split_means(data.batches(split, batch_size=250), self.per_sample)
        metrics["eval/bits_per_dim"] = bits_per_dim(metrics["eval/nll_nats"], self.image.numel)
        return metrics | self.test_distances(data, split)

    def training_score(self, sample: Batch) -> tuple[Monitor, float]:
        return self.monitor, split_means(minibatches(sample), self.per_sample)[self.monitor.metric]

    def per_sample(self, batch: Batch) -> dict[str, Tensor]:
        """The negative log-likelihood of each image in nats: (B,)."""
        log_prob = self.net(batch.x, self.condition(batch.y))  # (B, H, W)
        return {"eval/nll_nats": -log_prob.double().flatten(1).sum(1)}

    def sample(
        self,
        num: int,
        *,
        labels: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        on_progress: OnProgress | None = None,
        backend: Backend = "cached",
        known: KnownPixels | None = None,
    ) -> Tensor:
        """Images (num, C, H, W) in [0, 1]; see `GenerativeLearner.sample`.

        Args:
            backend: naive, cached or fixed_point; they give the same images, at very different speeds.
            known: the part of each image that is known (in-painting).
        """
        labels = self.draw_labels(num, labels, generator)
        dtype = next(self.parameters()).dtype
        shape = cast(tuple[int, int, int], self.image.shape)
        noise_shape = (num, self.net.head.num_noise, *shape[1:])
        noise = torch.rand(noise_shape, generator=generator, device=self.device, dtype=dtype)
        context = self.net.context(labels)
        if known is not None:
            known = KnownPixels(known.image.to(noise), known.mask.to(self.device))
        images = []
        for start in range(0, num, SAMPLES_AT_ONCE):
            part = slice(start, min(start + SAMPLES_AT_ONCE, num))
            request = SampleRequest(
                shape,
                noise[part],
                None if context is None else context[part],
                temperature,
                None if known is None else known.part(part),
            )
            images.append(sample(self.net, request, backend, _progress_of_part(on_progress, part, num)))
        return torch.cat(images)

    def inpaint(self, known: KnownPixels, **options: Any) -> Tensor:
        """Images (N, C, H, W) whose unknown part is drawn; `options` are those of `sample`."""
        return self.sample(len(known.image), known=known, **options)

    def pictures(self, data: LabDataModule) -> dict[str, Image]:
        """Samples, and completions of the upper halves of validation images: a row each, the original first."""
        assert isinstance(data, ImageBatches)
        batch = next(iter(data.batches("val", batch_size=NUM_COMPLETED)))
        rows = data.to_images(self.completions(batch.x, batch.y, 7).flatten(0, 1))
        return {**super().pictures(data), "completions": image_grid(rows, 8)}

    def completions(self, images: Tensor, labels: Tensor, num: int) -> Tensor:
        """(N, 1 + num, C, H, W): each image, then `num` images that share its upper half and class."""
        repeated = images.repeat_interleave(num, 0)
        mask = torch.zeros_like(repeated[:, :1], dtype=torch.bool)
        mask[:, :, : images.shape[2] // 2] = True
        classes = self.condition(labels.repeat_interleave(num, 0))
        completed = self.inpaint(KnownPixels(repeated, mask), labels=classes, generator=self.fixed_generator())
        return torch.cat([images[:, None], completed.unflatten(0, (-1, num))], 1)


def _progress_of_part(on_progress: OnProgress | None, part: slice, num: int) -> OnProgress | None:
    """The callback for one part of the images that reports progress of all."""
    if on_progress is None:
        return None
    return lambda done, total: on_progress(part.start * total + (part.stop - part.start) * done, num * total)
