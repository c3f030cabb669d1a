"""Collectors make rollouts. The local one steps environments in this process.

T time steps, N environments. The state of a collector is everything between two rollouts: environments, last
observation, recurrent state, running returns, random generator.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from agents.envs.make import Envs, make_envs
from agents.envs.spaces import Array, ObsArray
from agents.experience.arrays import as_tensor, clear_state, copied_array, copied_tensor
from agents.experience.record import RolloutRecord
from agents.policies.policy import Policy
from agents.types import Episode, Obs, Rollout
from lab.data.spec import DataSpec
from lab.errors import Failure
from lab.experiment import KindConfig

log = logging.getLogger("lab")

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

    def collect(
        self, policy: Policy, num_steps: int, policy_version: int = 0, *, whole_episodes: bool = False
    ) -> Rollout:
        """The next T steps of every environment, acted by `policy`, which `policy_version` updates have made.

        With `whole_episodes` every environment starts afresh and plays one episode, of at most `num_steps` steps.
        """

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

    @torch.no_grad()
    def collect(
        self, policy: Policy, num_steps: int, policy_version: int = 0, *, whole_episodes: bool = False
    ) -> Rollout:
        """The next T steps; see Rollout.

        With `whole_episodes` every environment starts afresh and plays one episode, of at most `num_steps` steps; T is
        the longest, and rows after an environment's end are not valid.
        """
        if self._obs is None:
            self._obs = self.envs.reset(self._seed)
        if whole_episodes:
            self._restart(policy)
        if policy.recurrent and self._state is None:
            self._state = policy.initial_state(self.num_envs)
        first_state = self._state = clear_state(self._state, self._start)
        noise = policy.draw_noise(num_steps, self.num_envs, self.generator)
        actor = policy.array_actor(noise) or TorchActor(policy, noise, first_state)
        record, waiting = RolloutRecord(num_steps, self.num_envs, self._obs), np.zeros(self.num_envs, bool)
        for t in range(num_steps):
            obs = record.before(t, self._obs, self.envs.resetting, waiting)
            step = self.envs.step(actor(t, obs))
            record.after(t, step)
            self._obs = step.obs
            if policy.recurrent or whole_episodes:
                done = step.terminated | step.truncated
                actor.clear((done | record.resting[t]) & ~self.envs.resetting)
                if whole_episodes:
                    waiting |= done
                    if waiting.all():
                        break
        self._state = actor.state
        start = record.finish(self._start, self.envs.resetting)
        self._start = start[-1]
        rollout = record.rollout(actor, start[:-1], first_state, policy_version)
        check_finite("rewards", rollout.reward)
        check_finite("observations", rollout.obs)
        rollout.episodes.extend(self._finished(rollout))
        self._recent.extend(rollout.episodes)
        return rollout

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
            "obs": None if self._obs is None else copied_tensor(self._obs),
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
        if state["envs"] is None:
            log.warning("the environments do not give their whole state: they go on with fresh episodes")
            self._obs = self.envs.reset(int(torch.randint(2**31, (), generator=self.generator)))
            return
        self._obs = self.envs.reset(self._seed)
        self.envs.load_state_dict(state["envs"])
        self._obs = copied_array(state["obs"])
        self._state = state["state"]
        self._start = state["start"].numpy().copy()
        self._returns, self._lengths = state["returns"].numpy().copy(), state["lengths"].numpy().copy()

    def close(self) -> None:
        self.envs.close()

    def _restart(self, policy: Policy) -> None:
        self._obs = self.envs.reset()
        self._state = policy.initial_state(self.num_envs)
        self._start = np.ones(self.num_envs, bool)
        self._returns[:], self._lengths[:] = 0.0, 0

    def _finished(self, rollout: Rollout) -> list[Episode]:
        """The episodes that ended in a rollout, in order; carries running returns and lengths on to the next."""
        reward, valid, done = rollout.reward.numpy(), rollout.valid.numpy(), rollout.done.numpy()
        returns = np.cumsum(reward * valid, 0, np.float64) + self._returns
        lengths = np.cumsum(valid, 0) + self._lengths
        before_return, before_length = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)
        episodes = []
        for t, i in zip(*np.nonzero(done & valid), strict=True):
            episodes.append(Episode(float(returns[t, i] - before_return[i]), int(lengths[t, i] - before_length[i])))
            before_return[i], before_length[i] = returns[t, i], lengths[t, i]
        self._returns, self._lengths = returns[-1] - before_return, lengths[-1] - before_length
        return episodes


class TorchActor:
    """Acts by any policy for one rollout, where its parameters are; arrays in, arrays out."""

    def __init__(self, policy: Policy, noise: Tensor, state: Tensor | None) -> None:
        self.policy, self.state, self._device = policy, state, next(policy.parameters()).device
        self._noise = noise.to(self._device).unbind()
        self._actions: list[Tensor] = []
        self._extras: list[dict[str, Tensor]] = []

    def __call__(self, t: int, obs: ObsArray) -> Array:
        action, self.state, extras = self.policy.act(as_tensor(obs, self._device), self.state, self._noise[t])
        self._actions.append(action)
        self._extras.append(extras)
        return self.policy.env_action(action).cpu().numpy()

    def clear(self, start: Array) -> None:
        self.state = clear_state(self.state, start)

    def actions(self) -> Tensor:
        return torch.stack(self._actions).cpu()

    def extras(self) -> dict[str, Tensor]:
        return {key: torch.stack([e[key] for e in self._extras]).cpu() for key in self._extras[0]}


def check_finite(what: str, values: Obs) -> None:
    """Raise Failure when an environment gave infinities or what is not a number: no agent can learn from them."""
    if isinstance(values, dict):
        for key, value in values.items():
            check_finite(f"{what} {key!r}", value)
    elif values.is_floating_point() and not math.isfinite(values.sum()) and not bool(values.isfinite().all()):
        raise Failure(f"the environment's {what} are not all finite: they hold inf or nan.")
