"""First-layer filters as a picture: what a network looks for in its images.

N filters, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lab.pictures import Image, image_grid

_MOST = 64
_SMALLEST = 3
"""rows and columns of a filter in which there is something to see"""
_TILE = 12


def first_filters(modules: Iterable[nn.Module], shape: tuple[int, ...]) -> Tensor | None:
    """Weights (N, C, h, w) of the first layer that reads images of this shape (C, H, W); None where there is none.

    A convolution has small filters, a linear layer filters as large as the image.
    """
    if len(shape) != 3:
        return None
    for layer in (layer for module in modules for layer in module.modules()):
        if isinstance(layer, nn.Conv2d) and layer.in_channels == shape[0] and min(layer.kernel_size) >= _SMALLEST:
            return layer.weight.detach()
        if isinstance(layer, nn.Linear) and layer.in_features == math.prod(shape) and min(shape[1:]) >= _SMALLEST:
            return layer.weight.detach().unflatten(1, shape)
    return None


def scaled_alone(filters: Tensor) -> Tensor:
    """Filters (N, C, h, w) within [0, 1], each divided by its own largest weight: 0.5 is a weight of 0."""
    largest = filters.float().flatten(1).abs().amax(1).clamp(min=1e-12)
    return 0.5 + filters.float() / (2 * largest[:, None, None, None])


def filters_picture(filters: Tensor) -> Image:
    """Some filters in a grid, each scaled alone; of other than 1 or 3 channels a filter a row, a channel a column."""
    tiles = scaled_alone(filters[:_MOST].cpu())
    channels = tiles.shape[1]
    if channels in (1, 3):
        return image_grid(tiles, padding=2, min_tile=_TILE)
    tiles = tiles[: max(1, _MOST // channels), :_MOST]
    return image_grid(tiles.flatten(0, 1)[:, None], tiles.shape[1], padding=2, min_tile=_TILE)


def first_picture(modules: Iterable[nn.Module], shape: tuple[int, ...]) -> Image | None:
    """The picture of the first filters that read images of this shape, where there are some."""
    filters = first_filters(modules, shape)
    return None if filters is None or not bool(torch.isfinite(filters).all()) else filters_picture(filters)
