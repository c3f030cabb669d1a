"""A rollout while it is collected. T time steps, N environments."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.envs.make import Step
from agents.envs.spaces import Array, ObsArray
from agents.experience.arrays import as_tensor
from agents.policies.numpy_mlp import Actor
from agents.replay.ring import aligned_empty
from agents.types import Rollout, map_obs


class RolloutRecord:
    """Arrays that fill up to a rollout of at most T steps. A row that is `resting` only resets, or waits for others."""

    def __init__(self, num_steps: int, num_envs: int, obs: ObsArray) -> None:
        shape = (num_steps, num_envs)
        self.reward = np.zeros(shape, np.float32)
        self.terminated, self.truncated = np.zeros(shape, bool), np.zeros(shape, bool)
        self.resetting, self.resting = np.zeros((num_steps + 1, num_envs), bool), np.zeros(shape, bool)
        self.obs, self.next_obs = _empty_rows(obs, num_steps), _empty_rows(obs, num_steps)
        self.num_steps = 0

    def before(self, t: int, obs: ObsArray, resetting: Array, waiting: Array) -> ObsArray:
        """Write what step t begins with; returns the observations in memory that no environment writes over."""
        self.resetting[t] = resetting
        np.logical_or(resetting, waiting, out=self.resting[t])
        return _write_row(self.obs, t, obs)

    def after(self, t: int, step: Step) -> None:
        """Write the outcome of step t."""
        self.reward[t], self.terminated[t], self.truncated[t] = step.reward, step.terminated, step.truncated
        _write_row(self.next_obs, t, step.next_obs)
        self.num_steps = t + 1

    def finish(self, start: Array, resetting: Array) -> Array:
        """Whether observations (T + 1, N) begin an episode, the one after the last step included."""
        num_steps = self.num_steps
        self.resetting[num_steps] = resetting
        ended = self.terminated[:num_steps] | self.truncated[:num_steps] | self.resting[:num_steps]
        return np.concatenate([start[None], ended & ~self.resetting[1 : num_steps + 1]])

    def rollout(self, actor: Actor, start: Array, first_state: Tensor | None, policy_version: int) -> Rollout:
        """The steps so far; `start` (T, N)."""
        num_steps = self.num_steps
        return Rollout(
            obs=map_obs(as_tensor(self.obs), lambda t: t[:num_steps]),
            action=actor.actions(),
            reward=torch.from_numpy(self.reward[:num_steps]),
            terminated=torch.from_numpy(self.terminated[:num_steps]),
            truncated=torch.from_numpy(self.truncated[:num_steps]),
            next_obs=map_obs(as_tensor(self.next_obs), lambda t: t[:num_steps]),
            start=torch.from_numpy(start),
            valid=torch.from_numpy(~self.resting[:num_steps]),
            first_state=first_state,
            extras=actor.extras(),
            episodes=[],
            policy_version=policy_version,
        )


def _empty_rows(obs: ObsArray, num_steps: int) -> Any:
    if isinstance(obs, dict):
        return {key: _empty_rows(value, num_steps) for key, value in obs.items()}
    return aligned_empty((num_steps, *obs.shape), obs.dtype)


def _write_row(buffer: Any, t: int, obs: ObsArray) -> ObsArray:
    if isinstance(obs, dict):
        return {key: _write_row(buffer[key], t, value) for key, value in obs.items()}  # type: ignore[misc]
    buffer[t] = obs
    row: Array = buffer[t]
    return row
