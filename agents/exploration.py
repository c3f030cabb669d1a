"""How a value-based agent explores: epsilon schedules and epsilon-greedy actions. N environments."""

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

    def at(self, env_steps: int) -> float:
        """Epsilon after so many environment steps."""
        return self.start + (self.end - self.start) * min(env_steps / self.decay_steps, 1.0)


def epsilon_greedy(greedy: Tensor, epsilon: Tensor, num_actions: int, noise: Tensor) -> Tensor:
    """Greedy actions (N,), or with probability epsilon any of `num_actions`; noise (N, 2) uniform in [0, 1)."""
    return torch.where(noise[:, 0] < epsilon, (noise[:, 1] * num_actions).long(), greedy)
