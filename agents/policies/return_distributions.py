"""Distributions of returns as value functions: expected values, categorical (C51) and quantile (QR-DQN).

Each kind gives the number M of outputs for one action's return, their expected value, their target and their loss, as
pure functions of tensors. B batch, M numbers an action.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional as F

from agents.returns import TD_LOSSES
from lab.errors import UserError
from lab.experiment import KindConfig


class ReturnsConfig(KindConfig):
    """The network's prediction of an action's return."""

    def build(self, loss: str) -> Returns:
        raise NotImplementedError


class ExpectedConfig(ReturnsConfig):
    """The expected value of the return (Mnih et al. 2015)."""

    kind: Literal["expected"] = "expected"

    def build(self, loss: str) -> ExpectedReturns:
        return ExpectedReturns(loss)


class CategoricalConfig(ReturnsConfig):
    """The distribution of the return over fixed values (C51, Bellemare et al. 2017)."""

    kind: Literal["categorical"] = "categorical"
    num_atoms: PositiveInt = 51
    v_min: float = -10.0
    v_max: float = 10.0

    @model_validator(mode="after")
    def _check_bounds(self) -> CategoricalConfig:
        if self.v_min >= self.v_max or self.num_atoms < 2:
            raise UserError(
                f"module.returns: v_min={self.v_min} must be below v_max={self.v_max}, and num_atoms={self.num_atoms} "
                f"at least 2."
            )
        return self

    def build(self, loss: str) -> CategoricalReturns:
        return CategoricalReturns(self)


class QuantileConfig(ReturnsConfig):
    """Quantiles of the return's distribution (QR-DQN, Dabney et al. 2018)."""

    kind: Literal["quantile"] = "quantile"
    num_quantiles: PositiveInt = 50
    kappa: PositiveFloat = 1.0
    """where the Huber loss turns from square to linear"""

    def build(self, loss: str) -> QuantileReturns:
        return QuantileReturns(self)


class ReturnsLoss(NamedTuple):
    """Loss and TD error of each sample, both (B,); the error, never below 0, sets priorities."""

    loss: Tensor
    td_error: Tensor


class Returns(Protocol):
    """A way to represent returns by M numbers."""

    size: int

    def mean(self, outputs: Tensor) -> Tensor:
        """Expected returns (...) of network outputs (..., M)."""

    def target(self, next_outputs: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """Targets (..., M) of outputs, from the outputs (..., M) of the successor's best action."""

    def loss(self, outputs: Tensor, target: Tensor) -> ReturnsLoss:
        """Outputs and targets (B, M)."""


class ExpectedReturns:
    """Q-values; y = r + discount * Q(s', a')."""

    size = 1

    def __init__(self, loss: str) -> None:
        self._loss = loss

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(-1)

    def target(self, next_outputs: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        return torch.addcmul(reward[..., None], discount[..., None], next_outputs)

    def loss(self, outputs: Tensor, target: Tensor) -> ReturnsLoss:
        loss = TD_LOSSES[self._loss]
        return ReturnsLoss(
            loss(outputs, target, reduction="none").squeeze(-1), (outputs.detach() - target).abs().squeeze(-1)
        )


class CategoricalReturns:
    """Logits over M fixed values ("atoms"); the target is shifted, shrunk and spread over the neighbouring atoms."""

    def __init__(self, config: CategoricalConfig) -> None:
        self.size, self.config = config.num_atoms, config
        self.spacing = (config.v_max - config.v_min) / (config.num_atoms - 1)

    def atoms(self, like: Tensor) -> Tensor:
        """The values (M,)."""
        return torch.arange(self.size, device=like.device, dtype=like.dtype) * self.spacing + self.config.v_min

    def mean(self, outputs: Tensor) -> Tensor:
        return F.softmax(outputs, -1) @ self.atoms(outputs)

    def target(self, next_outputs: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        values = reward[..., None] + discount[..., None] * self.atoms(next_outputs)
        return self.project(values, F.softmax(next_outputs, -1))

    def project(self, values: Tensor, probs: Tensor) -> Tensor:
        """Probabilities (..., M) at any values (..., M) -> at the atoms (Bellemare et al. 2017, equation 7).

        The share that atom i takes of the mass at v is max(0, 1 - |clip(v) - z_i| / spacing).
        """
        position = (values.clamp(self.config.v_min, self.config.v_max) - self.config.v_min) / self.spacing
        lower = position.floor().clamp(max=self.size - 2)
        share = position - lower
        below = lower.long()
        projected = torch.zeros_like(probs)
        projected = projected.scatter_add(-1, below, probs * (1 - share))
        return projected.scatter_add(-1, below + 1, probs * share)

    def loss(self, outputs: Tensor, target: Tensor) -> ReturnsLoss:
        cross_entropy = -(target * F.log_softmax(outputs, -1)).sum(-1)
        return ReturnsLoss(cross_entropy, cross_entropy.detach())


class QuantileReturns:
    """M quantiles at the midpoints tau_i = (i + 1/2) / M."""

    def __init__(self, config: QuantileConfig) -> None:
        self.size, self.kappa = config.num_quantiles, config.kappa

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs.mean(-1)

    def target(self, next_outputs: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        return torch.addcmul(reward[..., None], discount[..., None], next_outputs)

    def loss(self, outputs: Tensor, target: Tensor) -> ReturnsLoss:
        """Quantile Huber loss (Dabney et al. 2018, equation 10), summed over quantiles, meaned over targets."""
        error = target[:, None, :] - outputs[:, :, None]  # (B, M, M): each target against each quantile
        size = error.abs()
        huber = torch.where(size <= self.kappa, 0.5 * error.square(), self.kappa * (size - 0.5 * self.kappa))
        tau = (torch.arange(self.size, device=outputs.device, dtype=outputs.dtype) + 0.5) / self.size
        weight = (tau[:, None] - (error.detach() < 0).to(outputs.dtype)).abs()
        loss = (weight * huber / self.kappa).mean(-1).sum(-1)
        return ReturnsLoss(loss, (target.mean(-1) - outputs.detach().mean(-1)).abs())
