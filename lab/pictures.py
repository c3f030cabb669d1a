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

_GAP = 6
"""pixels between captioned images"""
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


def captioned_grid(images: Tensor, captions: Sequence[str], columns: int = 6, *, min_tile: int = 96) -> Image:
    """Images (N, C, H, W) in [0, 1] as one picture (h, w, 3), each with a line of text below it.

    Args:
        captions: one for each image; what is longer than its image is wide is cut.
    """
    from PIL import ImageDraw, ImageFont

    tiles = (enlarged(images.detach().float().cpu().clamp(0, 1), min_tile) * 255).round().to(torch.uint8)
    pixels = tiles.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    num, height, width, _ = pixels.shape
    rows, line = -(-num // columns), 18
    canvas = PILImage.new("RGB", (columns * (width + _GAP) + _GAP, rows * (height + line + _GAP) + _GAP), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=12)
    for i, caption in enumerate(captions):
        left, top = _GAP + (i % columns) * (width + _GAP), _GAP + (i // columns) * (height + line + _GAP)
        canvas.paste(PILImage.fromarray(pixels[i]), (left, top))
        while caption and pen.textlength(caption, font) > width:
            caption = caption[:-2].rstrip("…") + "…" if len(caption) > 2 else ""
        pen.text((left, top + height + 2), caption, "black", font)
    return np.asarray(canvas)


def confusion_matrix(counts: Tensor, names: Sequence[str]) -> Image:
    """How often each class (rows) was taken for each (columns), counts (K, K), as a picture (h, w, 3) with numbers.

    A field is the darker, the larger its share of the row.
    """
    from PIL import ImageDraw, ImageFont

    font, cell = ImageFont.load_default(size=12), 36
    shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).cpu().tolist()
    pen = ImageDraw.Draw(PILImage.new("RGB", (1, 1)))
    margin = 28 + min(140, int(max(pen.textlength(name, font) for name in names)))
    size = margin + cell * len(names) + _GAP
    canvas = PILImage.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(canvas)
    turned = PILImage.new("RGB", (size - margin, margin - 22), "white")
    for i, row in enumerate(counts.cpu().tolist()):
        top = margin + i * cell
        pen.text((margin - 6, top + cell / 2), names[i], "black", font, anchor="rm")
        label = PILImage.new("RGB", (margin - 22, cell), "white")
        ImageDraw.Draw(label).text((2, cell / 2), names[i], "black", font, anchor="lm")
        turned.paste(label.rotate(90, expand=True), (i * cell, 0))
        for j, count in enumerate(row):
            share, left = shares[i][j], margin + j * cell
            shade = tuple(round(255 - share * (255 - end)) for end in ((30, 80, 150) if i == j else (190, 50, 40)))
            pen.rectangle((left, top, left + cell - 2, top + cell - 2), fill=shade)
            if count:
                pen.text(
                    (left + cell / 2, top + cell / 2),
                    f"{count}",
                    "white" if share > 0.5 else "black",
                    font,
                    anchor="mm",
                )
    canvas.paste(turned, (margin, 18))
    pen.text((margin, 2), "predicted (columns) of each class (rows)", "black", font)
    return np.asarray(canvas)


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
