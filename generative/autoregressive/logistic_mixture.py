"""Mixtures of discretized logistics over whole pixels (PixelCNN++, Salimans et al. 2017), as pure functions.

Values lie on `levels` evenly spaced points of [0, 1]. B batch, C channels, M components, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from generative.likelihoods import discretized_logistic_log_prob


def coupled_means(x: Tensor, means: Tensor, coupling: Tensor) -> Tensor:
    """Means (B, C, M, H, W) that move linearly with the channels before them (equation 3).

    Args:
        x: (B, C, H, W).
        means: (B, C, M, H, W).
        coupling: (B, C * (C - 1) / 2, M, H, W), in the order (1, 0), (2, 0), (2, 1), ... of (channel, before).
    """
    moved, row = [], 0
    for channel in range(means.shape[1]):
        mean = means[:, channel]
        for before in range(channel):
            mean = mean + coupling[:, row] * x[:, before, None]
            row += 1
        moved.append(mean)
    return torch.stack(moved, 1)


def pixel_mixture_log_prob(logits: Tensor, means: Tensor, log_scales: Tensor, x: Tensor, levels: int) -> Tensor:
    """Log-probability (B, H, W) of whole pixels, whose channels share the component (equation 2).

    Args:
        logits: (B, M, H, W).
        means, log_scales: (B, C, M, H, W), the means coupled already.
        x: (B, C, H, W) in [0, 1].
    """
    components = discretized_logistic_log_prob(means, log_scales, x[:, :, None], levels).sum(1)  # (B, M, H, W)
    return torch.logsumexp(F.log_softmax(logits, 1) + components, 1)


def discretized_logistic_quantile(mean: Tensor, log_scale: Tensor, noise: Tensor, levels: int) -> Tensor:
    """The level in [0, 1] that the discretized logistic takes for uniform `noise` in [0, 1), elementwise."""
    eps = torch.finfo(noise.dtype).eps
    x = mean + torch.exp(log_scale) * torch.logit(noise.clamp(eps, 1 - eps))
    return torch.round(x.clamp(0, 1) * (levels - 1)) / (levels - 1)
