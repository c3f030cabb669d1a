"""Features of inputs that are no networks: what a baseline's model is fitted on.

B batch, C channels, H rows, W columns, F features, G parts of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from lab.errors import UserError
from lab.experiment import KindConfig
from lab.supervised.baselines.fitted import Fitted

_MOST_FEATURES = 100_000


class FeaturesConfig(KindConfig):
    """What of an input a baseline sees."""

    def build(self, shape: tuple[int, ...]) -> Features:
        """Raises UserError for inputs of a shape that these are no features of."""
        raise NotImplementedError


class Features(Fitted):
    """Inputs (B, ...) -> (B, F). Subclasses set `num`, which is F."""

    num: int

    def check(self, num_samples: int) -> None:
        """Raise UserError where so many training samples are too few."""

    def fit(self, batches: Callable[[], Iterable[Tensor]], seed: int) -> None:
        """Take what they need from the training inputs (B, ...), which `batches` goes through once a call."""


class RawConfig(FeaturesConfig):
    """The numbers of an input themselves: pixels, or a row of a table."""

    kind: Literal["raw"] = "raw"

    def build(self, shape: tuple[int, ...]) -> Raw:
        return Raw(shape)


class Raw(Features):
    """Inputs (B, ...) -> (B, F)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.num = math.prod(shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class ColourHistogramConfig(FeaturesConfig):
    """How frequent colours are in a picture (Swain and Ballard 1991), or in each part of a grid."""

    kind: Literal["colour_histogram"] = "colour_histogram"
    bins: int = Field(default=8, ge=2, le=256)
    """of each channel"""
    joint: bool = False
    """of all channels together, bins^C of them; else of each channel by itself"""
    grid: PositiveInt = 1
    """rows and columns of parts that a picture is divided into, each of which has a histogram"""

    def build(self, shape: tuple[int, ...]) -> ColourHistogram:
        return ColourHistogram(self, shape)


class ColourHistogram(Features):
    """Pictures (B, C, H, W) of pixels in [0, 1] -> shares (B, F) of a part's pixels."""

    place: Tensor  # (C, H, W) where the histogram of a pixel begins
    share: Tensor  # (C, H, W) of its part's pixels

    def __init__(self, config: ColourHistogramConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, rows, columns = picture_shape(config.kind, shape)
        self.bins, self.joint, grid = config.bins, config.joint, config.grid
        if grid > min(rows, columns):
            raise UserError(f"module.features.grid={grid} is not valid: pictures have {rows}x{columns} pixels.")
        histograms, length = (1, config.bins**channels) if config.joint else (channels, config.bins)
        self.num = grid**2 * histograms * length
        if self.num > _MOST_FEATURES:
            raise UserError(
                f"module.features.bins={config.bins} makes {self.num:,} features; at most {_MOST_FEATURES:,} are "
                f"counted. Fewer bins, a smaller grid or joint=false make less."
            )
        part = part_of(rows, columns, grid)  # (H, W)
        sizes = torch.bincount(part.flatten(), minlength=grid**2)
        each = torch.arange(histograms)[:, None, None]
        self.register_buffer("place", (part * histograms + each) * length, persistent=False)
        self.register_buffer("share", (1 / sizes[part]).expand(histograms, -1, -1).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        bins = (x * self.bins).long().clamp(0, self.bins - 1)  # (B, C, H, W)
        if self.joint:
            scale = self.bins ** torch.arange(x.shape[1], device=x.device)
            bins = (bins * scale[:, None, None]).sum(1, keepdim=True)
        index = (bins + self.place).flatten(1)
        empty = torch.zeros(x.shape[0], self.num, dtype=x.dtype, device=x.device)
        return empty.scatter_add(1, index, self.share.to(x.dtype).flatten().expand(x.shape[0], -1))


def part_of(rows: int, columns: int, grid: int) -> Tensor:
    """Which of the G = grid^2 parts each place (H, W) belongs to, numbered by rows."""
    down, right = (torch.arange(length) * grid // length for length in (rows, columns))
    return down[:, None] * grid + right


def picture_shape(kind: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W). Raises UserError for inputs that are no pictures."""
    if len(shape) != 3:
        raise UserError(
            f"module.features.kind={kind!r} is of pictures; these data hold rows of {math.prod(shape)} numbers, for "
            f"which module.features.kind=raw is."
        )
    channels, rows, columns = shape
    return channels, rows, columns
