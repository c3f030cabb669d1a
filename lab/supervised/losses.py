"""Losses of one class of several: one function a loss, with its equation.

Each takes by how much the scores of the K classes are above that of the right one, r: `above` (..., K) is s_j - s_r, 0
for r itself; it gives the loss (...). p is the softmax of the scores, and m the margin. B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

_MARGIN = 1.0


def cross_entropy(above: Tensor) -> Tensor:
    """-log p_r; ln K where all scores are alike."""
    return above.logsumexp(-1)


def hinge(above: Tensor) -> Tensor:
    """The sum over j != r of max(0, s_j - s_r + m) (Weston and Watkins 1999); K - 1 where all scores are alike."""
    return F.relu(above + _MARGIN).sum(-1) - _MARGIN


def squared_hinge(above: Tensor) -> Tensor:
    """The sum over j != r of max(0, s_j - s_r + m)^2; K - 1 where all scores are alike."""
    return F.relu(above + _MARGIN).square().sum(-1) - _MARGIN**2


def perceptron(above: Tensor) -> Tensor:
    """max_j s_j - s_r: nothing for what is right, by whatever margin (Rosenblatt 1958, for several classes)."""
    return above.amax(-1)


def exponential(above: Tensor) -> Tensor:
    """The sum over j != r of exp((s_j - s_r) / 2): AdaBoost's, for several classes (Mukherjee and Schapire 2013)."""
    return (above / 2).exp().sum(-1) - 1


def squared(above: Tensor) -> Tensor:
    """The sum over j of (p_j - [j = r])^2 (Brier 1950); 1 - 1 / K where all scores are alike."""
    return above.softmax(-1).square().sum(-1) - 2 * (-cross_entropy(above)).exp() + 1


def focal(above: Tensor, gamma: float) -> Tensor:
    """-(1 - p_r)^gamma log p_r (Lin et al. 2017)."""
    nll = cross_entropy(above)
    return (-torch.expm1(-nll)) ** gamma * nll


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "hinge": hinge,
    "squared_hinge": squared_hinge,
    "perceptron": perceptron,
    "exponential": exponential,
    "squared": squared,
}


def above_right(scores: Tensor, y: Tensor) -> Tensor:
    """`above` (B, K) of scores (B, K) and class numbers y (B,)."""
    return scores - scores.gather(1, y[:, None])


def of_shares(loss: Callable[[Tensor], Tensor], scores: Tensor, shares: Tensor) -> Tensor:
    """The losses (B,) of classes by their shares (B, K), where images are mixed: the mean over which one is right."""
    every = scores[:, None, :] - scores[:, :, None]  # (B, K, K), of each class as if it were the right one
    return (loss(every) * shares).sum(1)
