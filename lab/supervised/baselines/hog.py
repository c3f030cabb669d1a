"""Histograms of oriented gradients (Dalal and Triggs 2005), as scikit-image's `hog` computes them.

B batch, C channels, H rows, W columns, O orientations; R, S rows and columns of cells, b of cells in a block.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from lab.errors import UserError
from lab.supervised.baselines.features import Features, FeaturesConfig, picture_shape

_EPS = 1e-5
_CLIP = 0.2
"""the largest share of a block's norm that one number may have (Lowe 2004)"""


class HogConfig(FeaturesConfig):
    """Histograms of oriented gradients of a picture's cells, normalized in overlapping blocks of cells."""

    kind: Literal["hog"] = "hog"
    orientations: int = Field(default=9, ge=1, le=360)
    """bins of directions from 0 to 180 degrees"""
    cell: PositiveInt = 8
    """rows and columns of pixels in a cell"""
    block: PositiveInt = 3
    """rows and columns of cells in a block"""

    def build(self, shape: tuple[int, ...]) -> Hog:
        return Hog(self, shape)


class Hog(Features):
    """Pictures (B, C, H, W) -> (B, F). Raises UserError for rows, and for pictures smaller than a block."""

    def __init__(self, config: HogConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        _, rows, columns = picture_shape(config.kind, shape)
        side = config.cell * config.block
        if min(rows, columns) < side:
            raise UserError(
                f"module.features.kind='hog' needs pictures of at least one block, {side}x{side} pixels "
                f"(cell={config.cell} x block={config.block}); these have {rows}x{columns}."
            )
        self.config = config
        blocks = [length // config.cell - config.block + 1 for length in (rows, columns)]
        self.num = math.prod(blocks) * config.block**2 * config.orientations

    def forward(self, x: Tensor) -> Tensor:
        return blocks_of(cells_of(x, self.config.orientations, self.config.cell), self.config.block).flatten(1)


def cells_of(x: Tensor, orientations: int, cell: int) -> Tensor:
    """Histograms (B, O, R, S) of cells: how large the gradients are in each direction, a mean over a cell's pixels.

    Gradients are centred differences, 0 at the border; of several channels each pixel takes the largest. Pixels on the
    right and below that fill no cell are left out.
    """
    down, right = torch.zeros_like(x), torch.zeros_like(x)
    down[:, :, 1:-1] = x[:, :, 2:] - x[:, :, :-2]
    right[:, :, :, 1:-1] = x[:, :, :, 2:] - x[:, :, :, :-2]
    size = (down.square() + right.square()).sqrt()
    if x.shape[1] > 1:
        size, channel = size.max(1, keepdim=True)
        down, right = down.gather(1, channel), right.gather(1, channel)
    degrees = torch.rad2deg(torch.atan2(down, right)) % 180
    bins = (degrees * (orientations / 180)).long().clamp(max=orientations - 1)  # (B, 1, H, W)
    sizes = torch.zeros(x.shape[0], orientations, *x.shape[2:], dtype=x.dtype, device=x.device).scatter(1, bins, size)
    return F.avg_pool2d(sizes, cell)


def blocks_of(cells: Tensor, block: int) -> Tensor:
    """Cells (B, O, R, S) -> blocks (B, R - b + 1, S - b + 1, b, b, O), each normalized, clipped and normalized."""
    blocks = cells.unfold(2, block, 1).unfold(3, block, 1).permute(0, 2, 3, 4, 5, 1)
    return _normalized(_normalized(blocks).clamp(max=_CLIP))


def _normalized(blocks: Tensor) -> Tensor:
    return blocks / (blocks.square().sum((3, 4, 5), keepdim=True) + _EPS**2).sqrt()
