"""Likelihoods and divergences: pure functions on tensors, in nats.

B batch (any leading dimensions), D latents, K samples, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LOG_2PI = math.log(2 * math.pi)


def bernoulli_log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """log p(x) of independent bits x (..., C, H, W) in [0, 1], summed over pixels: (...).

    `logits` may have more leading dimensions than `x`; grey values count as expected log-likelihood of their bits.
    """
    return (x * logits - F.softplus(logits)).flatten(-3).sum(-1)


def gaussian_log_prob(mean: Tensor, log_scale: Tensor, x: Tensor) -> Tensor:
    """log N(x; mean, exp(log_scale)^2) elementwise: a density, in nats per unit."""
    return -0.5 * (LOG_2PI + ((x - mean) * torch.exp(-log_scale)) ** 2) - log_scale


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) summed over the last dimension: (..., D) -> (...)."""
    return -0.5 * (LOG_2PI * z.shape[-1] + z.square().sum(-1))


def diagonal_gaussian_log_prob(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(z; mean, exp(log_variance)) summed over the last dimension: (..., D) -> (...)."""
    return -0.5 * (LOG_2PI + log_variance + (z - mean).square() * torch.exp(-log_variance)).sum(-1)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) elementwise (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def discretized_logistic_log_prob(mean: Tensor, log_scale: Tensor, x: Tensor, levels: int) -> Tensor:
    """log P(x) elementwise, x one of `levels` values in [0, 1], P the logistic's mass in the bin around x.

    The bins at 0 and 1 reach to infinity, so that the probabilities of all levels sum to 1 (Kingma et al. 2016,
    Salimans et al. 2017).
    """
    half = 0.5 / (levels - 1)
    inverse_scale = torch.exp(-log_scale)
    upper = (x - mean + half) * inverse_scale
    lower = (x - mean - half) * inverse_scale
    # log(sigmoid(u) - sigmoid(l)) = log sigmoid(u) + log sigmoid(-l) + log(1 - exp(l - u))
    width = (2 * half * inverse_scale).clamp(min=1e-6)
    inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-width))
    return torch.where(x < half, F.logsigmoid(upper), torch.where(x > 1 - half, F.logsigmoid(-lower), inside))


def importance_weighted_bound(log_weights: Tensor, dim: int = -1) -> Tensor:
    """log of the mean importance weight over `dim`, a lower bound on log p(x) (Burda et al. 2016, eq. 8).

    `log_weights` = log p(x, z) - log q(z|x) with z ~ q; one sample gives the ELBO.
    """
    return torch.logsumexp(log_weights, dim) - math.log(log_weights.shape[dim])


def bits_per_dim(nats: float, num_dims: int) -> float:
    """Negative log-likelihood of an image in nats as bits per pixel value."""
    return nats / (num_dims * math.log(2))
