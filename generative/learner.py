"""GenerativeLearner: what all generative models share: samples, interpolation, pictures.

N images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from generative.evaluation.distances import NEIGHBOURS, distribution_metrics, nearest_neighbours
from lab.data.images import ImageModule
from lab.data.module import LabDataModule
from lab.data.spec import Classes, DataSpec, TensorSpec
from lab.errors import UserError
from lab.pictures import Image, image_grid
from lab.training.learner import ConfigT, Learner

NUM_SAMPLES = 64
"""images in the sample grid of an evaluation"""
NUM_NEIGHBOURS = 24
"""samples whose nearest training images are shown"""
_AT_ONCE = 500

Progress = Callable[[int, int], None]
"""called with (done, total) while a slow sampler works"""


class GenerativeLearner(Learner[ConfigT]):
    """Subclasses give `sample`, and `interpolate` when they have a latent space."""

    can_interpolate: ClassVar[bool] = False
    """whether `interpolate` works"""
    conditional: bool = False
    """whether `sample` takes class labels"""
    distance_images: ClassVar[int] = 2000
    """samples behind the distances of an evaluation on the test split"""

    def __init__(self, config: ConfigT, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not isinstance(spec.inputs, TensorSpec) or len(spec.inputs.shape) != 3:
            raise UserError(f"module.kind={config.kind!r} needs images (channels, height, width), not {spec.inputs!r}.")
        self.image = spec.inputs
        self.num_classes = spec.outputs.num if isinstance(spec.outputs, Classes) else 0

    def sample(
        self,
        num: int,
        *,
        labels: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Images (num, C, H, W) in [0, 1] on the module's device.

        Args:
            labels: classes (num,) int64, where the model is conditional; by default drawn uniformly.
            temperature: below 1, less varied and more typical; 0 gives the mode where there is one.
            generator: source of all randomness, on the module's device; by default torch's global one.
            progress: called with (done, total) by samplers that take long.
        """
        raise NotImplementedError

    def interpolate(self, num: int, steps: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Images (num, steps, C, H, W): each row goes from one sample to another through the latent space."""
        raise UserError(f"module.kind={self.config.kind!r} has no latent space to interpolate in.")

    def draw_labels(self, num: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor | None:
        """The labels (num,) to sample with: those given, uniform ones, or None for an unconditional model.

        Raises UserError for labels given to a model that takes none, and for classes that there are not.
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

    def distances(self, data: LabDataModule, split: str, *, num: int | None = None) -> dict[str, float]:
        """How far samples are from the test split; nothing for the validation split.

        Models that are chosen by their likelihood are measured so once, at the end: sampling takes its time. Data
        without class labels have no such distance, and neither has a handful of images.

        Args:
            num: how many samples; by default `distance_images`.
        """
        assert isinstance(data, ImageModule)
        if split != "test" or not has_classes(data) or data.num_samples("test") <= NEIGHBOURS:
            return {}
        return self.measured(data, split, num or self.distance_images, full=True)

    def measured(self, data: ImageModule, split: str, num: int, *, full: bool) -> dict[str, float]:
        """The distances of `num` samples from a split. Where pixels are bits, samples are drawn as bits too."""
        parts = [data.shown(self.sample(min(_AT_ONCE, num - start))) for start in range(0, num, _AT_ONCE)]
        images, real = torch.cat(parts), data.pictured
        if real.spec.inputs.levels == 2:  # type: ignore[union-attr]
            images = torch.bernoulli(images)
        return distribution_metrics(images, real, split, full=full)

    def pictures(self, data: LabDataModule) -> dict[str, Image]:
        """From fixed noise: samples (a class a column where conditional), a latent interpolation, and samples each
        beside the nearest training image, which shows memorising."""
        assert isinstance(data, ImageModule)
        images = data.shown(self.sample(NUM_SAMPLES, labels=self.fixed_labels(), generator=self.fixed_generator()))
        shown = {"samples": image_grid(images, self.sample_columns)}
        if self.can_interpolate:
            rows = self.interpolate(6, 10, generator=self.fixed_generator())
            shown["interpolation"] = image_grid(rows.flatten(0, 1), rows.shape[1])
        some = images[:NUM_NEIGHBOURS]
        pairs = torch.stack([some, nearest_neighbours(some, data.pictured)], dim=1)
        return {**shown, "neighbours": image_grid(pairs.flatten(0, 1), 8)}

    @property
    def sample_columns(self) -> int:
        """Samples in a row of a grid: the classes, where the model is conditional and they fit."""
        return self.num_classes if self.conditional and self.num_classes <= 16 else 8

    def fixed_labels(self) -> Tensor | None:
        """The classes in turn, for NUM_SAMPLES samples; None where the model is not conditional."""
        return torch.arange(NUM_SAMPLES, device=self.device) % self.num_classes if self.conditional else None

    def fixed_generator(self) -> torch.Generator:
        """The same noise at each evaluation, so that pictures can be compared."""
        return torch.Generator(self.device).manual_seed(0)


def has_classes(data: ImageModule) -> bool:
    """Whether the images have labels of two classes or more."""
    outputs = data.pictured.spec.outputs
    return isinstance(outputs, Classes) and outputs.num > 1


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
