"""How a value-based agent explores: epsilon schedules and epsilon-greedy actions. T time steps, N environments."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from agents.policies.numpy_mlp import Array, ArrayMLP
from agents.policies.policy import Policy
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
    if hold == 1:
        return noise
    return noise.repeat_interleave(hold, 0)[:num_steps]


def epsilon_greedy(greedy: Tensor, epsilon: Tensor, num_actions: int, noise: Tensor) -> Tensor:
    """Greedy actions (N,), or with probability epsilon any of `num_actions`; noise (N, 2) uniform in [0, 1)."""
    return torch.where(noise[:, 0] < epsilon, (noise[:, 1] * num_actions).long(), greedy)


class EpsilonGreedyPolicy(Policy):
    """A policy that takes a random action with probability `epsilon`, and holds it for `hold` steps."""

    epsilon: Tensor  # ()

    def __init__(self, hold: int = 1) -> None:
        super().__init__()
        self.hold = hold
        self.register_buffer("epsilon", torch.ones(()))

    def draw_noise(self, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """Uniform (T, N, 2): whether to explore, and where to."""
        return exploration_noise(num_steps, num_envs, self.hold, generator)


class EpsilonGreedyActor:
    """`epsilon_greedy` in numpy for one rollout. Random actions are drawn at once; where all environments explore, no
    values are computed.

    Args:
        q_values: observations (N, D) -> numbers (N, K) of which an action's greatest is the best.
        noise: (T, N, 2) uniform in [0, 1).
    """

    state: Tensor | None = None

    def __init__(self, q_values: ArrayMLP, epsilon: float, num_actions: int, noise: Tensor) -> None:
        self._q_values = q_values
        explore, where_to = noise.numpy().transpose(2, 0, 1)
        self._actions = (where_to * np.float32(num_actions)).astype(np.int64)  # until greedy ones take their place
        self._greedy: Array = explore >= np.float32(epsilon)
        self._anyone_greedy: Any = self._greedy.any(1).tolist()
        self._num_steps = 0

    def __call__(self, t: int, obs: Array) -> Array:
        actions: Array = self._actions[t]
        if self._anyone_greedy[t]:
            np.copyto(actions, self._q_values(obs.astype(np.float32, copy=False)).argmax(1), where=self._greedy[t])
        self._num_steps = t + 1
        return actions

    def clear(self, start: Array) -> None:
        """Nothing: it has no memory."""

    def actions(self) -> Tensor:
        return torch.from_numpy(self._actions[: self._num_steps])

    def extras(self) -> dict[str, Tensor]:
        return {}
