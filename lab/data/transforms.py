"""Random transforms of training images, and of what they show with them, on the device that trains.

They are functions of a generator, which follows from the seed and the position in the data: a resumed run draws the
same, and so do several workers. One pass moves pixels (flip, shift, and if wanted scale and rotation), another changes
their colours; noise and mixing come last. Images keep their size. B batch, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, model_validator
from torch import Tensor
from torch.nn import functional as F

from lab.data.resident import Batch
from lab.experiment import Config


class TransformConfig(Config):
    """What is drawn anew for each image of each minibatch; by default nothing."""

    flip: float = Field(default=0.0, ge=0, le=1)
    """probability of a mirror image, left for right"""
    crop: NonNegativeInt = 0
    """pixels of padding around an image, of which a part of its own size is cut"""
    scale: tuple[float, float] = (1.0, 1.0)
    """smallest and largest factor of enlargement"""
    rotate: float = Field(default=0.0, ge=0, le=180)
    """degrees to either side"""
    brightness: float = Field(default=0.0, ge=0, le=1)
    """largest change of all pixels, as a share"""
    contrast: float = Field(default=0.0, ge=0, le=1)
    """largest change of the distance to the image's mean, as a share"""
    saturation: float = Field(default=0.0, ge=0, le=1)
    """largest change of the distance to grey, as a share"""
    cutout: NonNegativeInt = 0
    """side of a square that becomes 0 (DeVries and Taylor 2017)"""
    noise: NonNegativeFloat = 0.0
    """standard deviation of Gaussian noise on each pixel, of which 1 is the whole range; pixels stay within it"""
    mixup: NonNegativeFloat = 0.0
    """alpha of Beta(alpha, alpha), the share of another image that is laid over (Zhang et al. 2018)"""
    cutmix: NonNegativeFloat = 0.0
    """alpha of Beta(alpha, alpha), the share of the area that comes from another image (Yun et al. 2019); with mixup,
    each minibatch gets one of both"""
    fill: float = Field(default=0.0, ge=0, le=1)
    """pixels beyond an image's edge"""

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if not 0.1 <= self.scale[0] <= self.scale[1] <= 10:
            raise ValueError(f"scale={list(self.scale)} is not a smallest and a largest factor from 0.1 to 10.")
        return self

    @property
    def mixes(self) -> bool:
        """Whether targets are mixed, too."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return self != TransformConfig(fill=self.fill)


def transformed(batch: Batch, config: TransformConfig, num_classes: int | None, generator: torch.Generator) -> Batch:
    """A minibatch x (B, C, H, W), y (B, ...) with transforms drawn by the generator, which is on the batch's device.

    Mixed class numbers y (B,) become the classes' shares (B, K); other targets are mixed as they are.
    """
    x = _coloured(_moved(batch.x, config, generator), config, generator)
    if config.cutout:
        x = _cut_out(x, config.cutout, generator)
    if config.noise:
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        x = (x + config.noise * noise).clamp(0, 1)
    return _mixed(Batch(x, batch.y), config, num_classes, generator) if config.mixes else Batch(x, batch.y)


# ------------------------------------------------------------------ where pixels are


def _moved(x: Tensor, config: TransformConfig, generator: torch.Generator) -> Tensor:
    if not (config.flip or config.crop or config.rotate or config.scale != (1.0, 1.0)):
        return x
    num, _, height, width = x.shape
    mirrored = torch.rand(num, generator=generator, device=x.device) < config.flip  # (B,)
    down = _whole_numbers(num, 2 * config.crop + 1, generator, x.device) - config.crop
    right = _whole_numbers(num, 2 * config.crop + 1, generator, x.device) - config.crop
    if config.rotate or config.scale != (1.0, 1.0):
        angle = (2 * torch.rand(num, generator=generator, device=x.device) - 1) * math.radians(config.rotate)
        factor = torch.empty(num, device=x.device).uniform_(*config.scale, generator=generator)
        return _resampled(x, mirrored, down, right, angle, factor, config.fill)
    rows = torch.arange(height, device=x.device) + down[:, None]  # (B, H)
    columns = torch.arange(width, device=x.device).expand(num, width)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns) + right[:, None]  # (B, W)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]  # (B, H, W)
    place = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    taken = x.flatten(2).gather(2, place.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    return torch.where(inside[:, None], taken, config.fill)


def _resampled(
    x: Tensor, mirrored: Tensor, down: Tensor, right: Tensor, angle: Tensor, factor: Tensor, fill: float
) -> Tensor:
    """Turned by `angle` (B,), enlarged by `factor`, moved, and mirrored, with linear interpolation between pixels."""
    height, width = x.shape[2:]
    cos, sin = angle.cos() / factor, angle.sin() / factor
    sign = torch.where(mirrored, -1.0, 1.0)
    matrix = torch.stack(  # from places of the new image to those of the old one, both from -1 to 1 (B, 2, 3)
        [
            torch.stack([sign * cos, -sign * sin * height / width, 2 * right / width], 1),
            torch.stack([sin * width / height, cos, 2 * down / height], 1),
        ],
        1,
    )
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x - fill, grid, align_corners=False) + fill


# ------------------------------------------------------------------ which colours they have


def _coloured(x: Tensor, config: TransformConfig, generator: torch.Generator) -> Tensor:
    if not (config.brightness or config.contrast or config.saturation):
        return x
    if config.brightness:
        x = x * _factors(x, config.brightness, generator)
    if config.contrast:
        mean = x.mean((1, 2, 3), keepdim=True)
        x = mean + (x - mean) * _factors(x, config.contrast, generator)
    if config.saturation and x.shape[1] == 3:
        grey = (x * x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)  # ITU-R BT.601
        x = grey + (x - grey) * _factors(x, config.saturation, generator)
    return x.clamp(0, 1)


def _factors(x: Tensor, reach: float, generator: torch.Generator) -> Tensor:
    return 1 + reach * (2 * torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) - 1)


def _cut_out(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    height, width = x.shape[2:]
    top = _whole_numbers(len(x), height, generator, x.device) - side // 2
    left = _whole_numbers(len(x), width, generator, x.device) - side // 2
    return x.masked_fill(_boxes(height, width, top, left, side, side), 0.0)


def _boxes(height: int, width: int, top: Tensor, left: Tensor, rows: int, columns: int) -> Tensor:
    """Whether each pixel is in the box whose corner is at `top`, `left` (B,): (B, 1, H, W)."""
    row, column = (torch.arange(size, device=top.device) for size in (height, width))
    in_rows = (row >= top[:, None]) & (row < top[:, None] + rows)
    in_columns = (column >= left[:, None]) & (column < left[:, None] + columns)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


# ------------------------------------------------------------------ two images as one


def _mixed(batch: Batch, config: TransformConfig, num_classes: int | None, generator: torch.Generator) -> Batch:
    """Each image with another one of the minibatch, by a share that is the same for all of them."""
    x, y = batch
    host = np.random.default_rng(int(_whole_numbers(1, 2**31, generator, x.device)))
    over = bool(config.mixup) and (not config.cutmix or host.random() < 0.5)
    alpha = config.mixup if over else config.cutmix
    share = float(host.beta(alpha, alpha))  # of the image itself
    other = torch.randperm(len(x), generator=generator, device=x.device)
    if num_classes is not None:
        y = F.one_hot(y, num_classes).float()
    if over:
        return Batch(share * x + (1 - share) * x[other], share * y + (1 - share) * y[other])
    height, width = x.shape[2:]
    rows, columns = (round(size * math.sqrt(1 - share)) for size in (height, width))
    top, left = int(host.integers(height - rows + 1)), int(host.integers(width - columns + 1))
    x = x.clone()
    x[:, :, top : top + rows, left : left + columns] = batch.x[other, :, top : top + rows, left : left + columns]
    share = 1 - rows * columns / (height * width)
    return Batch(x, share * y + (1 - share) * y[other])


def _whole_numbers(num: int, end: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randint(end, (num,), generator=generator, device=device)
