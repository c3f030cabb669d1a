"""GenerativeLearner: what all generative models share: samples, distances, pictures; LatentImageModel: what those do
whose images are a function of noise.

N images, B minibatch, D latents, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from generative.evaluation.distances import NEIGHBOURS, distribution_metrics, nearest_neighbours
from generative.export import exportable_images
from lab.data.image_batches import ImageBatches
from lab.data.module import LabDataModule
from lab.data.resident import Batch
from lab.data.spec import DataSpec, TensorSpec
from lab.data.targets import Classes
from lab.errors import UserError
from lab.export import Exportable
from lab.long_work import told
from lab.pictures import Image, image_grid
from lab.training.answer import Answer
from lab.training.learner import ConfigT, Learner

NUM_SAMPLES = 64
"""images in the sample grid of an evaluation"""
NUM_NEIGHBOURS = 24
"""samples beside which pictures have the nearest training image"""
_AT_ONCE = 500

OnProgress = Callable[[int, int], None]
"""called with (steps done, steps in all) while a slow sampler works"""


class GenerativeLearner(Learner[ConfigT]):
    """The base of models of images; subclasses give `sample`."""

    conditional: bool = False
    """whether `sample` takes class labels"""
    distance_images: ClassVar[int] = 2000
    """samples behind the distances of an evaluation on the test split"""

    def __init__(self, config: ConfigT, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not isinstance(spec.inputs, TensorSpec) or len(spec.inputs.shape) != 3:
            raise UserError(f"module.kind={config.kind!r} needs images (channels, height, width), not {spec.inputs!r}.")
        self.image = spec.inputs
        self.num_classes = spec.target.num if isinstance(spec.target, Classes) else 0

    def sample(
        self,
        num: int,
        *,
        labels: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        on_progress: OnProgress | None = None,
    ) -> Tensor:
        """Images (num, C, H, W) in [0, 1] on the module's device.

        Args:
            labels: classes (num,) int64, where the model is conditional; by default drawn uniformly.
            temperature: below 1, less varied and more typical; 0 gives the mode where there is one.
            generator: source of all randomness, on the module's device; by default torch's global one.
            on_progress: called by samplers that take long.

        Raises:
            UserError: for labels or a temperature that the model cannot take.
        """
        raise NotImplementedError

    def interpolate(self, num: int, steps: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Images (num, steps, C, H, W): each row goes from one sample to another through the latent space.

        Raises UserError for a model without a latent space.
        """
        raise UserError(f"module.kind={self.config.kind!r} has no latent space to interpolate in.")

    def condition(self, y: Tensor) -> Tensor | None:
        """What the networks get of classes y (B,): the classes where the model is conditional, else None.

        Raises UserError for the shares of classes that mixed images have.
        """
        if self.conditional and y.dim() > 1:
            raise UserError(
                "data.transforms.mixup and cutmix mix classes; a conditional model needs one of each image."
            )
        return y if self.conditional else None

    def draw_labels(self, num: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor | None:
        """The classes (num,) to sample with: `labels`, by default uniform ones; None for an unconditional model.

        Raises UserError for labels of an unconditional model, and for classes that do not exist.
        """
        if not self.conditional:
            if labels is not None:
                raise UserError(f"module.kind={self.config.kind!r} of this run is not conditional: it takes no class.")
            return None
        if labels is None:
            return torch.randint(self.num_classes, (num,), generator=generator, device=self.device)
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise UserError(f"class {int(labels.max())} is not one of 0 to {self.num_classes - 1}.")
        return labels.to(self.device)

    # ------------------------------------------------------------------ evaluation

    def per_sample(self, batch: Batch) -> dict[str, Tensor]:
        """Numbers (B,) by name `eval/...` of each image, whose means are metrics; of models with a likelihood."""
        raise UserError(f"module.kind={self.config.kind!r} gives no number for one image.")

    @torch.no_grad()
    def answers(self, x: Tensor) -> list[Answer]:
        """How likely images (B, C, H, W) are. Raises UserError for models that are conditional, or have none."""
        if self.conditional:
            raise UserError("this run's model is conditional: how likely an image is depends on its class.")
        rows = self.per_sample(Batch(x, torch.zeros(len(x), dtype=torch.int64, device=x.device)))
        numbers = {name.removeprefix("eval/"): value.tolist() for name, value in rows.items()}
        first = next(iter(numbers))
        return [
            Answer(f"{first} {numbers[first][i]:.5g}", {name: values[i] for name, values in numbers.items()})
            for i in range(len(x))
        ]

    def test_distances(self, data: LabDataModule, split: str) -> dict[str, float]:
        """How far `distance_images` samples are from the test split; nothing for the validation split.

        Models that are chosen by their likelihood are measured so once, at the end: sampling takes its time. Data
        without class labels have no such distance, and neither has a handful of images.
        """
        assert isinstance(data, ImageBatches)
        if split != "test" or not has_classes(data) or data.num_samples("test") <= NEIGHBOURS:
            return {}
        return self.distances(data, split, self.distance_images, full=True)

    def distances(self, data: ImageBatches, split: str, num: int, *, full: bool) -> dict[str, float]:
        """The distances of `num` samples from a split, see `distribution_metrics`.

        Where pixels are bits, samples are drawn as bits too. Raises UserError for data without class labels.
        """
        starts = told("sampling images to compare", range(0, num, _AT_ONCE))
        parts = [data.to_images(self.sample(min(_AT_ONCE, num - start))) for start in starts]
        images, real = torch.cat(parts), data.image_module
        if real.spec.inputs.levels == 2:
            images = torch.bernoulli(images)
        return distribution_metrics(images, real, split, full=full)

    # ------------------------------------------------------------------ pictures

    def pictures(self, data: LabDataModule) -> dict[str, Image]:
        """From fixed noise: samples (a class a column where conditional), and samples each beside the nearest training
        image, which shows memorising."""
        assert isinstance(data, ImageBatches)
        images = data.to_images(self.sample(NUM_SAMPLES, labels=self.fixed_labels(), generator=self.fixed_generator()))
        first = images[:NUM_NEIGHBOURS]
        pairs = torch.stack([first, nearest_neighbours(first, data.image_module)], dim=1)  # (N, 2, C, H, W)
        return {
            "samples": image_grid(images, self.sample_columns),
            "neighbours": image_grid(pairs.flatten(0, 1), 8),
        }

    @property
    def sample_columns(self) -> int:
        """Samples in a row of a grid: the classes, where the model is conditional and they fit."""
        return self.num_classes if self.conditional and self.num_classes <= 16 else 8

    def fixed_labels(self) -> Tensor | None:
        """The classes in turn, for NUM_SAMPLES samples; None where the model is not conditional."""
        return self.condition(torch.arange(NUM_SAMPLES, device=self.device) % max(self.num_classes, 1))

    def fixed_generator(self) -> torch.Generator:
        """The same noise at each evaluation, so that pictures can be compared."""
        return torch.Generator(self.device).manual_seed(0)


class LatentImageModel(GenerativeLearner[ConfigT]):
    """The base of models whose images are a function of standard normal latents and, where conditional, of classes.

    Subclasses give `num_latents`, `image_net` and `images_of`.
    """

    image_net_name: ClassVar[str]
    """what `lab export` calls the network from latents to images"""

    @property
    def num_latents(self) -> int:
        """Standard normal numbers D behind one image."""
        raise NotImplementedError

    @property
    def image_net(self) -> nn.Module:
        """The network whose parameters `images_of` uses."""
        raise NotImplementedError

    def images_of(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of latents z (N, D) and classes y (N,)."""
        raise NotImplementedError

    def draw_latents(
        self,
        num: int,
        *,
        labels: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Latents (num, D) whose standard deviation is `temperature`, and classes (num,); see `sample`."""
        y = self.draw_labels(num, labels, generator)
        return temperature * torch.randn(num, self.num_latents, generator=generator, device=self.device), y

    def sample(
        self,
        num: int,
        *,
        labels: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        on_progress: OnProgress | None = None,
    ) -> Tensor:
        """Images of latents whose standard deviation is `temperature`; see `GenerativeLearner.sample`."""
        return self.images_of(*self.draw_latents(num, labels=labels, temperature=temperature, generator=generator))

    def interpolate(self, num: int, steps: int, *, generator: torch.Generator | None = None) -> Tensor:
        y = self.draw_labels(num, None, generator)
        ends = torch.randn(2, num, self.num_latents, generator=generator, device=self.device)
        z = slerp(ends[0], ends[1], steps)  # (num, steps, D)
        repeated = None if y is None else y[:, None].expand(num, steps).flatten()
        return self.images_of(z.flatten(0, 1), repeated).unflatten(0, (num, steps))

    def exportable(self, data: LabDataModule) -> Exportable:
        """The network from latents, and classes where conditional, to images."""
        num_classes = self.num_classes if self.conditional else 0
        return exportable_images(self.image_net_name, self.images_of, self.image_net, self.num_latents, num_classes)

    def pictures(self, data: LabDataModule) -> dict[str, Image]:
        """What all models show, and interpolations from one sample to another."""
        rows = self.interpolate(6, 10, generator=self.fixed_generator())
        return {**super().pictures(data), "interpolation": image_grid(rows.flatten(0, 1), rows.shape[1])}


def has_classes(data: ImageBatches) -> bool:
    """Whether the images have labels of two classes or more."""
    target = data.image_module.spec.target
    return isinstance(target, Classes) and target.num > 1


def slerp(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Points (N, steps, D) on the great arcs from `a` to `b` (N, D), whose lengths go over linearly.

    Between Gaussian noise vectors a straight line passes through lengths that noise never has (White 2016).
    """
    t = torch.linspace(0, 1, steps, device=a.device)[None, :, None]
    length_a, length_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    cosine = ((a / length_a) * (b / length_b)).sum(1).clamp(-1 + 1e-6, 1 - 1e-6)
    angle = torch.acos(cosine)[:, None, None]
    unit = (torch.sin((1 - t) * angle) * (a / length_a)[:, None] + torch.sin(t * angle) * (b / length_b)[:, None]) / (
        torch.sin(angle)
    )
    return unit * ((1 - t) * length_a[:, None] + t * length_b[:, None])
