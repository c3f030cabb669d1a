"""Pictures of many images: grids that a person can read. N images, C channels, H height, W width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from torch.nn import functional as F

Image = np.ndarray[Any, np.dtype[np.uint8]]

MIN_TILE = 56
"""pixels that the shorter side of a tile has at least; smaller images are enlarged by whole factors"""


def image_grid(images: Tensor, columns: int | None = None, *, padding: int = 2, min_tile: int = MIN_TILE) -> Image:
    """Images (N, C, H, W) in [0, 1] as one picture (h, w) of one channel, or (h, w, 3) of three, row by row.

    Args:
        columns: images in a row; by default a square.
        padding: grey pixels between tiles.

    Raises ValueError for other shapes.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"a grid takes images (N, 1 or 3, H, W), not {tuple(images.shape)}")
    columns = columns or math.ceil(math.sqrt(len(images)))
    tiles = enlarged(images.detach().float().cpu().clamp(0, 1), min_tile)
    num, channels, height, width = tiles.shape
    rows = -(-num // columns)
    grid = torch.full((channels, rows * (height + padding) + padding, columns * (width + padding) + padding), 0.5)
    for i, tile in enumerate(tiles):
        top = padding + (i // columns) * (height + padding)
        left = padding + (i % columns) * (width + padding)
        grid[:, top : top + height, left : left + width] = tile
    pixels = (grid * 255).round().to(torch.uint8)
    return pixels[0].numpy() if channels == 1 else pixels.permute(1, 2, 0).contiguous().numpy()


def scatter(points: Tensor, labels: Tensor, names: Sequence[str] = ()) -> Image:
    """Points (N, 2) of classes (N,) as a picture, a colour a class."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), dpi=100, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    classes = labels.unique().tolist()
    colors = colormaps["tab10" if len(classes) <= 10 else "turbo"]
    for i, label in enumerate(classes):
        x, y = points[labels == label].cpu().T.numpy()
        color = colors(i) if len(classes) <= 10 else colors(i / (len(classes) - 1))
        axes.scatter(x, y, s=6, color=color, label=names[label] if label < len(names) else str(label))
    axes.set_aspect("equal", "datalim")
    if 1 < len(classes) <= 20:
        axes.legend(markerscale=3, fontsize="small")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def predicted_and_true(predictions: Tensor, true: Tensor, names: Sequence[str]) -> Image:
    """Predictions (N, T) against true values (N, T) as a picture, a panel for each of the first four names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num = min(len(names), 4)
    figure = Figure(figsize=(4 * num, 4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for i, axes in enumerate(figure.subplots(1, num, squeeze=False)[0]):
        x, y = true[:, i].cpu().numpy(), predictions[:, i].cpu().numpy()
        axes.scatter(x, y, s=8, alpha=0.6)
        axes.axline((float(x.mean()), float(x.mean())), slope=1, color="gray", linewidth=1)
        axes.set_xlabel(f"{names[i]}, true")
        axes.set_ylabel("predicted")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def two_axes(points: Tensor) -> Tensor:
    """Points (N, D) as (N, 2): along their two principal axes, or themselves where D is 2."""
    if points.shape[1] == 2:
        return points
    centred = points - points.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return F.pad(centred @ vectors[:, -2:].flip(1), (0, max(0, 2 - points.shape[1])))


def enlarged(images: Tensor, min_tile: int = MIN_TILE) -> Tensor:
    """Images (N, C, H, W) repeated pixel by pixel until the shorter side has `min_tile` pixels."""
    factor = max(1, math.ceil(min_tile / min(images.shape[-2:])))
    return images if factor == 1 else F.interpolate(images, scale_factor=factor, mode="nearest")


def save_png(image: Image, path: Path) -> None:
    """Write a picture (H, W) or (H, W, 3) as a PNG, into a folder that is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(image).save(path)
