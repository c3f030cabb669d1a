"""Collectors bring rollouts. The local one steps environments in this process.

T time steps, N environments. The state of a collector is everything between two rollouts: environments, last
observation, recurrent state, running returns, random generator.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from agents.envs import Array, Envs, ObsArray, Step, make_envs
from agents.policies import Policy
from agents.types import Episode, Obs, Rollout
from lab.data.spec import Continuous, DataSpec
from lab.experiment import KindConfig

_RECENT_EPISODES = 100


class EnvArguments(NamedTuple):
    """What `make_envs` needs, as plain values that can be sent to another process."""

    env: str
    num_envs: int
    options: dict[str, Any]


class CollectorConfig(KindConfig):
    """How experience is collected."""

    def build(self, envs: EnvArguments, seed: int) -> Collector:
        raise NotImplementedError


class LocalCollectorConfig(CollectorConfig):
    """Environments in this process."""

    kind: Literal["local"] = "local"

    def build(self, envs: EnvArguments, seed: int) -> LocalCollector:
        return LocalCollector(make_envs(envs.env, envs.num_envs, envs.options), seed)


class Collector(Protocol):
    """Brings experience, from this process or from elsewhere."""

    spec: DataSpec
    num_envs: int

    def collect(self, policy: Policy, num_steps: int, policy_version: int = 0) -> Rollout:
        """The next T steps of every environment, acted by `policy`, which has seen `policy_version` updates."""

    def statistics(self) -> dict[str, float]:
        """Mean return and length of recent episodes, once there are some."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""

    def close(self) -> None:
        """Release environments and processes."""


class LocalCollector:
    """Steps `envs` with a policy; the policy acts where its parameters are, rollouts are on the CPU."""

    def __init__(self, envs: Envs, seed: int) -> None:
        self.envs, self.spec, self.num_envs = envs, envs.spec, envs.num_envs
        self.generator = torch.Generator().manual_seed(seed)
        self._seed = seed
        self._obs: ObsArray | None = None
        self._state: Tensor | None = None
        self._start = np.ones(self.num_envs, bool)
        self._returns = np.zeros(self.num_envs, np.float64)
        self._lengths = np.zeros(self.num_envs, np.int64)
        self._recent: deque[Episode] = deque(maxlen=_RECENT_EPISODES)
        self._bounds = action_bounds(self.spec)

    @torch.no_grad()
    def collect(self, policy: Policy, num_steps: int, policy_version: int = 0) -> Rollout:
        """The next T steps; see Rollout."""
        if self._obs is None:
            self._obs = self.envs.reset(self._seed)
        device = next(policy.parameters()).device
        if policy.recurrent and self._state is None:
            self._state = policy.initial_state(self.num_envs)
        first_state = self._state
        noise = policy.draw_noise(num_steps, self.num_envs, self.generator).to(device)
        record = _Record(num_steps, self.num_envs)
        obs = self._obs
        for t in range(num_steps):
            valid = ~self.envs.resetting
            if policy.recurrent:
                self._state = _clear(self._state, self._start)
            action, self._state, extras = policy.act(as_tensor(obs, device), self._state, noise[t])
            record.before(t, obs, self._start, valid)  # some environments write the next observation over this one
            step = self.envs.step(within_bounds(action.cpu().numpy(), self._bounds))
            record.after(t, action, step, extras)
            self._count(step, valid, record.episodes)
            obs = step.obs
        self._obs = obs
        return record.rollout(first_state, policy_version)

    def statistics(self) -> dict[str, float]:
        if not self._recent:
            return {}
        return {
            "charts/episodic_return": sum(e.episode_return for e in self._recent) / len(self._recent),
            "charts/episodic_length": sum(e.length for e in self._recent) / len(self._recent),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "envs": self.envs.state_dict() if self._obs is not None else None,
            "obs": None if self._obs is None else _copy(self._obs),
            "state": self._state,
            "start": torch.from_numpy(self._start.copy()),
            "returns": torch.from_numpy(self._returns.copy()),
            "lengths": torch.from_numpy(self._lengths.copy()),
            "recent": [tuple(episode) for episode in self._recent],
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
        self._recent = deque((Episode(*episode) for episode in state["recent"]), maxlen=_RECENT_EPISODES)
        if state["obs"] is None:
            return
        if state["envs"] is None:  # the environment does not give its state: go on with fresh episodes
            self._obs = self.envs.reset(int(torch.randint(2**31, (), generator=self.generator)))
            return
        self._obs = self.envs.reset(self._seed)
        self.envs.load_state_dict(state["envs"])
        self._obs = _to_numpy(state["obs"])
        self._state = state["state"]
        self._start = state["start"].numpy().copy()
        self._returns, self._lengths = state["returns"].numpy().copy(), state["lengths"].numpy().copy()

    def close(self) -> None:
        self.envs.close()

    def _count(self, step: Step, valid: Array, episodes: list[Episode]) -> None:
        self._returns += step.reward
        self._lengths += valid
        done = step.terminated | step.truncated
        if done.any():
            for i in np.flatnonzero(done):
                episode = Episode(float(self._returns[i]), int(self._lengths[i]))
                episodes.append(episode)
                self._recent.append(episode)
            self._returns[done] = 0.0
            self._lengths[done] = 0
        # The observation after an end (or after a row that only resets) starts an episode.
        self._start = ~valid if self.envs.resetting.any() or not valid.all() else done


class _Record:
    """Arrays that fill up to a rollout."""

    def __init__(self, num_steps: int, num_envs: int) -> None:
        shape = (num_steps, num_envs)
        self.reward = np.zeros(shape, np.float32)
        self.terminated, self.truncated = np.zeros(shape, bool), np.zeros(shape, bool)
        self.start, self.valid = np.zeros(shape, bool), np.ones(shape, bool)
        self.num_steps = num_steps
        self.obs: Any = None
        self.next_obs: Any = None
        self.actions: list[Tensor] = []
        self.extras: list[dict[str, Tensor]] = []
        self.episodes: list[Episode] = []

    def before(self, t: int, obs: ObsArray, start: Array, valid: Array) -> None:
        if self.obs is None:
            self.obs, self.next_obs = _empty(obs, self.num_steps), _empty(obs, self.num_steps)
        _write(self.obs, t, obs)
        self.start[t], self.valid[t] = start, valid

    def after(self, t: int, action: Tensor, step: Step, extras: dict[str, Tensor]) -> None:
        _write(self.next_obs, t, step.next_obs)
        self.actions.append(action)
        self.extras.append(extras)
        self.reward[t], self.terminated[t], self.truncated[t] = step.reward, step.terminated, step.truncated

    def rollout(self, first_state: Tensor | None, policy_version: int) -> Rollout:
        extras = {key: torch.stack([e[key] for e in self.extras]).cpu() for key in self.extras[0]}
        return Rollout(
            obs=as_tensor(self.obs),
            action=torch.stack(self.actions).cpu(),
            reward=torch.from_numpy(self.reward),
            terminated=torch.from_numpy(self.terminated),
            truncated=torch.from_numpy(self.truncated),
            next_obs=as_tensor(self.next_obs),
            start=torch.from_numpy(self.start),
            valid=torch.from_numpy(self.valid),
            first_state=first_state,
            extras=extras,
            episodes=self.episodes,
            policy_version=policy_version,
        )


def action_bounds(spec: DataSpec) -> tuple[Array, Array] | None:
    """Bounds (A,) of continuous actions."""
    if not isinstance(spec.outputs, Continuous):
        return None
    return np.asarray(spec.outputs.low, np.float32), np.asarray(spec.outputs.high, np.float32)


def within_bounds(actions: Array, bounds: tuple[Array, Array] | None) -> Array:
    """Actions as the environment takes them: clipped to its bounds, if there are any."""
    return actions if bounds is None else np.clip(actions, *bounds)


def _clear(state: Tensor | None, start: Array) -> Tensor | None:
    if state is None or not start.any():
        return state
    return state * torch.from_numpy(~start).to(state)[None, :, None]


def as_tensor(obs: ObsArray, device: torch.device | None = None) -> Obs:
    """An observation array as a tensor, or a dict of them."""
    if isinstance(obs, dict):
        return {key: torch.from_numpy(value).to(device) for key, value in obs.items()}
    return torch.from_numpy(obs) if device is None or device.type == "cpu" else torch.from_numpy(obs).to(device)


def _empty(obs: ObsArray, num_steps: int) -> Any:
    if isinstance(obs, dict):
        return {key: _empty(value, num_steps) for key, value in obs.items()}
    return np.empty((num_steps, *obs.shape), obs.dtype)


def _write(buffer: Any, t: int, obs: ObsArray) -> None:
    if isinstance(obs, dict):
        for key, value in obs.items():
            buffer[key][t] = value
    else:
        buffer[t] = obs


def _copy(obs: ObsArray) -> Any:
    if isinstance(obs, dict):
        return {key: _copy(value) for key, value in obs.items()}
    return torch.from_numpy(obs.copy())


def _to_numpy(obs: Any) -> ObsArray:
    if isinstance(obs, dict):
        return {key: value.numpy().copy() for key, value in obs.items()}
    array: Array = obs.numpy().copy()
    return array
