"""What experience looks like. T time steps, N environments, B batch, K minibatches; time comes first."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Obs = Tensor | dict[str, Tensor]


class Episode(NamedTuple):
    """A finished episode: undiscounted return and length in environment steps."""

    episode_return: float
    length: int


class Rollout(NamedTuple):
    """T steps of N environments.

    `next_obs` is the true successor of each step, the last observation of an episode included. A row that is only an
    environment's reset is not `valid`: losses, statistics and replay leave it out.
    """

    obs: Obs  # (T, N, *obs)
    action: Tensor  # (T, N) or (T, N, A)
    reward: Tensor  # (T, N)
    terminated: Tensor  # (T, N) bool: the episode ended; no bootstrap
    truncated: Tensor  # (T, N) bool: the episode was cut; bootstrap
    next_obs: Obs  # (T, N, *obs)
    start: Tensor  # (T, N) bool: obs is the first of an episode; recurrent state is cleared before it
    valid: Tensor  # (T, N) bool
    first_state: Tensor | None  # (S, N, F) recurrent state before the first step
    extras: dict[str, Tensor]  # (T, N, ...) what the policy gave beside the action
    episodes: list[Episode]  # those that ended in these steps
    policy_version: int  # updates that the acting policy had seen

    @property
    def done(self) -> Tensor:
        """(T, N) bool: the episode ended or was cut here."""
        return self.terminated | self.truncated

    @property
    def num_env_steps(self) -> int:
        """Environment steps taken, resets left out."""
        return int(self.valid.sum())

    def lengthened(self, num_steps: int) -> Rollout:
        """With rows at the end that are not valid, so that T is `num_steps`."""
        missing = num_steps - len(self.reward)
        if not missing:
            return self

        def longer(t: Tensor) -> Tensor:
            return torch.cat([t, t.new_zeros(missing, *t.shape[1:])])

        return self._replace(
            obs=map_obs(self.obs, longer),
            next_obs=map_obs(self.next_obs, longer),
            extras={key: longer(value) for key, value in self.extras.items()},
            action=longer(self.action),
            reward=longer(self.reward),
            terminated=longer(self.terminated),
            truncated=longer(self.truncated),
            start=longer(self.start),
            valid=longer(self.valid),
        )


class Transition(NamedTuple):
    """A batch of transitions (..., B) from replay; `discount` is gamma^n, or 0 where the episode terminated."""

    obs: Obs  # (..., B, *obs)
    action: Tensor  # (..., B)
    reward: Tensor  # (..., B) the n-step discounted sum
    discount: Tensor  # (..., B)
    next_obs: Obs  # (..., B, *obs) n steps on
    weight: Tensor  # (..., B) importance weight
    indices: Tensor  # (..., B) where it lies in the buffer


class Sequences(NamedTuple):
    """Stretches of L successive steps (L, B, ...) from replay; they may run over the ends of episodes."""

    obs: Obs  # (L, B, *obs)
    action: Tensor  # (L, B)
    reward: Tensor  # (L, B)
    terminated: Tensor  # (L, B) bool
    truncated: Tensor  # (L, B) bool
    next_obs: Obs  # (L, B, *obs)
    start: Tensor  # (L, B) bool: obs is the first of an episode
    valid: Tensor  # (L, B) bool: not only a reset


def map_obs(obs: Obs, function: Callable[[Tensor], Tensor]) -> Obs:
    """Apply a function to an observation tensor, or to each of a dict."""
    if isinstance(obs, dict):
        return {key: function(value) for key, value in obs.items()}
    return function(obs)


def to_float(obs: Tensor) -> Tensor:
    """Observations as a network takes them: uint8 images in [0, 1], everything else as float32."""
    return obs.float() / 255.0 if obs.dtype == torch.uint8 else obs.float()
