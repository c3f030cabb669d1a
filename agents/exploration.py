"""How a value-based agent explores: epsilon schedules and epsilon-greedy actions. T time steps, N environments."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from lab.experiment import Config


class EpsilonConfig(Config):
    """Linear epsilon-greedy exploration, in environment steps."""

    start: float = Field(default=1.0, ge=0, le=1)
    end: float = Field(default=0.05, ge=0, le=1)
    decay_steps: PositiveInt = 10_000
    """environment steps from start to end"""
    hold: PositiveInt = 1
    """steps that a random action is held (Dabney et al. 2021), where single ones cancel out"""

    def at(self, env_steps: int) -> float:
        """Epsilon after so many environment steps."""
        return self.start + (self.end - self.start) * min(env_steps / self.decay_steps, 1.0)


def exploration_noise(num_steps: int, num_envs: int, hold: int, generator: torch.Generator) -> Tensor:
    """(T, N, 2) uniform in [0, 1): whether to explore and where to, drawn anew every `hold` steps."""
    noise = torch.rand(-(-num_steps // hold), num_envs, 2, generator=generator)
    return noise.repeat_interleave(hold, 0)[:num_steps]


def epsilon_greedy(greedy: Tensor, epsilon: Tensor, num_actions: int, noise: Tensor) -> Tensor:
    """Greedy actions (N,), or with probability epsilon any of `num_actions`; noise (N, 2) uniform in [0, 1)."""
    return torch.where(noise[:, 0] < epsilon, (noise[:, 1] * num_actions).long(), greedy)
