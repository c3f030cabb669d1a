"""What experience looks like. T time steps, N environments, B batch, K minibatches; time comes first.

H and W are the height and width of a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Obs = Tensor | dict[str, Tensor]
"""one tensor, or one for each key of a dict"""
Frame = np.ndarray[Any, np.dtype[np.uint8]]
"""a picture, (H, W, 3) in colour or (H, W) in grey"""


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
    extras: dict[str, Tensor]  # (T, N, ...) the policy's outputs beside the action
    episodes: list[Episode]  # those that ended in these steps
    policy_version: int  # how many updates had made the policy that acted

    @property
    def done(self) -> Tensor:
        """(T, N) bool: the episode ended or was cut here."""
        return self.terminated | self.truncated

    @property
    def num_env_steps(self) -> int:
        """Environment steps taken, resets left out."""
        return int(self.valid.sum())

    def lengthened(self, num_steps: int) -> Rollout:
        """The rollout with rows at its end that are not valid, so that T is `num_steps`."""
        missing = num_steps - len(self.reward)
        if not missing:
            return self

        def padded(t: Tensor) -> Tensor:
            return torch.cat([t, t.new_zeros(missing, *t.shape[1:])])

        return self._replace(
            obs=map_obs(self.obs, padded),
            next_obs=map_obs(self.next_obs, padded),
            extras={key: padded(value) for key, value in self.extras.items()},
            action=padded(self.action),
            reward=padded(self.reward),
            terminated=padded(self.terminated),
            truncated=padded(self.truncated),
            start=padded(self.start),
            valid=padded(self.valid),
        )


class Transition(NamedTuple):
    """A batch of transitions (..., B) from replay; `discount` is gamma^n, or 0 where the episode terminated."""

    obs: Obs  # (..., B, *obs)
    action: Tensor  # (..., B)
    reward: Tensor  # (..., B) the n-step discounted sum
    discount: Tensor  # (..., B)
    next_obs: Obs  # (..., B, *obs) n steps on
    weight: Tensor  # (..., B) importance weight
    indices: Tensor  # (..., B) its place in the buffer


class Sequences(NamedTuple):
    """Stretches of L successive steps (L, B, ...) from replay; they may run over the ends of episodes."""

    obs: Obs  # (L, B, *obs)
    action: Tensor  # (L, B)
    reward: Tensor  # (L, B)
    terminated: Tensor  # (L, B) bool
    truncated: Tensor  # (L, B) bool
    next_obs: Obs  # (L, B, *obs)
    start: Tensor  # (L, B) bool: obs is the first of an episode
    valid: Tensor  # (L, B) bool: more than a reset


def map_obs(obs: Obs, function: Callable[[Tensor], Tensor]) -> Obs:
    """Apply a function to an observation tensor, or to each of a dict."""
    if isinstance(obs, dict):
        return {key: function(value) for key, value in obs.items()}
    return function(obs)


def to_float(obs: Tensor) -> Tensor:
    """Observations as a network takes them: uint8 images in [0, 1], everything else as float32."""
    return obs.float() / 255.0 if obs.dtype == torch.uint8 else obs.float()
