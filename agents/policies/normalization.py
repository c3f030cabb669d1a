"""Running normalisation of observations and rewards, saved with the policy. T time steps, N environments."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents.returns import backward_recursion
from lab.ranks import collectives, ranks

CLIP = 10.0
_EPS = 1e-8


class RunningMoments(nn.Module):
    """Mean and variance of all data so far, of all ranks, merged batch by batch (Chan et al. 1979)."""

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Merge the moments of x (B, *shape)."""
        if len(x) == 0 and ranks.num_ranks() == 1:
            return
        before = self.count.clone()
        new, var, mean = collectives.moments(x.to(self.mean))
        if not new:
            return
        total = before + new
        delta = mean - self.mean
        self.mean += delta * (new / total)
        self.var.copy_((self.var * before + var * new + delta.square() * (before * new / total)) / total)
        self.count.copy_(total)


class ObsNormalizer(RunningMoments):
    """Observations with mean 0 and variance 1, clipped to +-10; as they are before the first update."""

    def forward(self, x: Tensor) -> Tensor:
        mean, scale = self.mean_and_scale(x.dtype)
        return ((x - mean) * scale).clamp(-CLIP, CLIP).float()

    def mean_and_scale(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The mean, and one over the deviation, of the type of what they normalise."""
        return self.mean.to(dtype), (self.var + _EPS).rsqrt().to(dtype)


class RewardScaler(RunningMoments):
    """Rewards over the standard deviation of the running discounted return (Engstrom et al. 2020), within +-10."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.running: Tensor | None = None  # (N,) discounted return so far of each environment

    @torch.no_grad()
    def forward(self, reward: Tensor, start: Tensor, valid: Tensor) -> Tensor:
        """Update by a rollout's rewards (T, N) and return them scaled; where `start` is true an episode begins."""
        keep = self.gamma * (~start).to(reward.dtype)
        first = reward[:1] if self.running is None else torch.addcmul(reward[:1], keep[:1], self.running)
        running = backward_recursion(torch.cat([first, reward[1:]]).flip(0), keep.flip(0)).flip(0)
        self.running = running[-1].clone()
        self.update(running[valid])
        return self.scaled(reward)

    def scaled(self, reward: Tensor) -> Tensor:
        """Rewards over the deviation so far, without an update."""
        return (reward * float((self.var + _EPS).rsqrt())).clamp(-CLIP, CLIP)
