"""Where a decoder looks: weights of words by words, or drawn over an image, word by word. T told words, M places."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from lab.pictures import Image, captioned_grid


def word_weights(samples: Sequence[tuple[Sequence[str], Sequence[str], Tensor]]) -> Image:
    """For each sample the words that were read (columns), those that were told (rows), and the weights (T, M)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = [max(len(read), len(told), 4) for read, told, _ in samples]
    figure = Figure(figsize=(0.32 * sum(sizes) + len(sizes), 0.32 * max(sizes) + 1), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(samples), squeeze=False, width_ratios=sizes)[0]
    for panel, (read, told, weights) in zip(axes, samples, strict=True):
        panel.imshow(weights[: len(told), : len(read)].cpu().float().numpy(), vmin=0, vmax=1, cmap="Blues")
        panel.set_xticks(range(len(read)), [_plain(word) for word in read], rotation=90)
        panel.set_yticks(range(len(told)), [_plain(word) for word in told])
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def image_weights(image: Tensor, told: Sequence[str], weights: Tensor) -> Image:
    """An image (C, H, W) once for each word that was told, as bright as the weights (T, M) of its places."""
    rows, columns = image.shape[1:]
    height = max(1, round(math.sqrt(weights.shape[1] * rows / columns)))
    shares = weights[: len(told)].float().unflatten(1, (height, -1))[:, None]  # (T, 1, h, w)
    shares = F.interpolate(shares, (rows, columns), mode="bilinear", align_corners=False)
    shares = shares / shares.amax((2, 3), keepdim=True).clamp(min=1e-6)
    return captioned_grid(image * (0.25 + 0.75 * shares), list(told), columns=min(len(told), 8))


def _plain(word: str) -> str:
    """A word as matplotlib takes it: $ begins a formula there."""
    return word.replace("$", r"\$")
