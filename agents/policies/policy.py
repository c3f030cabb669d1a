"""Policies choose actions. A policy imports torch alone, so that it can act anywhere.

N environments, A action components, K actions. Noise is drawn outside, for a whole rollout at once, by one generator: a
policy is a function of (parameters, observation, state, noise), and no noise means the greedy or mean action.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from agents.policies.numpy_mlp import Actor
from agents.types import Obs


class Action(NamedTuple):
    """The output of `act`: the action (N,) or (N, A), the recurrent state after it, and extras (N, ...)."""

    action: Tensor
    state: Tensor | None
    extras: dict[str, Tensor]


class Preferences(NamedTuple):
    """A policy's scores of its choices (N, K), or the components of a continuous action."""

    kind: Literal["probability", "Q-value", "action"]
    scores: Tensor  # (N, K)
    value: Tensor | None = None  # (N,) the value of the state, from a policy that has a value head


class Policy(nn.Module):
    """The protocol that collectors, evaluation and play rely on."""

    recurrent = False

    def initial_state(self, num_envs: int) -> Tensor | None:
        """The recurrent state (S, N, F) at the start of an episode."""
        return None

    def draw_noise(self, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """The noise of a rollout, (T, N, ...), on the CPU."""
        raise NotImplementedError

    def act(self, obs: Obs, state: Tensor | None = None, noise: Tensor | None = None) -> Action:
        """Actions for N observations; greedy without noise."""
        raise NotImplementedError

    def preferences(self, obs: Obs, state: Tensor | None = None) -> Preferences:
        """Scores of the choices at N observations, differentiable in them; by default the greedy action."""
        action = self.env_action(self.act(obs, state).action)
        return Preferences("action", action.float().reshape(len(action), -1))

    def array_actor(self, noise: Tensor) -> Actor | None:
        """`act` for one rollout, given its noise (T, N, ...), without torch where that is faster; None where not."""
        return None

    def env_action(self, action: Tensor) -> Tensor:
        """Actions for the environment, from those that `act` returns and rollouts record."""
        return action
