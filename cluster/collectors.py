"""Distributed collection: a fleet of Ray actors behind the same `collect()` as the local collector.

    lab train pg/cartpole data.num_envs=64 data.collector.kind=remote data.collector.num=8

Each actor steps its share of the environments for a whole rollout; the weights go out once a collect through the object
store. Every rollout comes with the state that its actor had after it, so a replacement of a dead actor repeats exactly
what was lost, and nothing arrives twice. With `pipelined` the next rollout is collected while the learner updates: its
policy is one collect older, which `charts/staleness` counts in updates and V-trace corrects.

T time steps, N environments of all actors, n environments of one.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from agents.collector import CollectorConfig, EnvArguments, LocalCollector
from agents.envs import make_envs
from agents.policies import Policy
from agents.types import Episode, Obs, Rollout
from cluster.session import Resources, Session, session
from lab import catalog
from lab.data.spec import DataSpec
from lab.errors import Failure, UserError
from lab.seeding import derive_seed

log = logging.getLogger("lab")

_RECENT_EPISODES = 100
_MAX_RESTARTS_IN_A_ROW = 5
_RELEASE_SECONDS = 10.0


class RemoteCollectorConfig(CollectorConfig):
    """A fleet of collector processes on a Ray cluster."""

    kind: Literal["remote"] = "remote"
    num: PositiveInt = 2
    """collector processes; data.num_envs is divided among them"""
    pipelined: bool = False
    """collect the next rollout, with the policy before the update, while the learner updates"""
    num_cpus: NonNegativeFloat = 1.0
    """CPUs that the cluster sets aside for each"""
    timeout_seconds: PositiveFloat = 600.0
    """a collector that takes longer for a rollout is replaced"""

    def build(self, envs: EnvArguments, seed: int) -> RemoteCollector:
        """Raises UserError when the environments cannot be divided or made, or the cluster is too small."""
        if envs.num_envs % self.num:
            raise UserError(
                f"data.num_envs={envs.num_envs} cannot be divided among data.collector.num={self.num} collectors."
            )
        return RemoteCollector(self, envs, seed)


def _free_cpus(need: float) -> float:
    """The cluster's free CPUs, once there are `need` of them or ended actors have had time to give theirs back."""
    import ray

    deadline = time.monotonic() + _RELEASE_SECONDS
    while True:
        free: float = ray.available_resources().get("CPU", 0.0)
        if free >= need or time.monotonic() > deadline:
            return free
        time.sleep(0.1)


class _Actor:
    """What runs in a collector process: a LocalCollector and a policy that takes on the weights sent."""

    def __init__(self, envs: EnvArguments, seed: int, imports: Sequence[str], paths: Sequence[str]) -> None:
        torch.set_num_threads(1)
        sys.path.extend(path for path in paths if path not in sys.path)
        for name in imports:
            catalog.allow_import(name)
        self.collector = LocalCollector(make_envs(envs.env, envs.num_envs, envs.options), seed)
        self.policy: Policy | None = None

    def set_policy(self, policy: Policy) -> None:
        self.policy = policy.eval()

    def load_state(self, state: dict[str, Any]) -> None:
        self.collector.load_state_dict(state)

    def collect(
        self, weights: dict[str, Any], num_steps: int, policy_version: int, options: dict[str, bool]
    ) -> tuple[Rollout, dict[str, Any]]:
        assert self.policy is not None
        self.policy.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
        rollout = self.collector.collect(self.policy, num_steps, policy_version, **options)
        return rollout, self.collector.state_dict()


class _Request(NamedTuple):
    """A rollout that was asked for: repeated as it is when its actor dies."""

    weights: Any
    num_steps: int
    policy_version: int
    options: dict[str, bool]


class RemoteCollector:
    """The same `collect()`, done by a fleet.

    Uses the Ray cluster that the process is connected to (in a sweep or a submitted job), else a private one.
    """

    def __init__(self, config: RemoteCollectorConfig, envs: EnvArguments, seed: int) -> None:
        self.config, self.num_envs = config, envs.num_envs
        one = make_envs(envs.env, 1, envs.options)
        self.spec: DataSpec = one.spec
        one.close()
        self._share = envs._replace(num_envs=envs.num_envs // config.num)
        self._seeds = [derive_seed(seed, "collector", i) for i in range(config.num)]
        self._states: list[dict[str, Any] | None] = [None] * config.num
        self._recent: deque[Episode] = deque(maxlen=_RECENT_EPISODES)
        self._staleness = 0
        self._restarts = 0
        self._policy: Any = None
        self._next: tuple[_Request, list[Any]] | None = None
        self._stack = contextlib.ExitStack()
        self._connect()
        self._actors = [self._start(i) for i in range(config.num)]

    def collect(
        self, policy: Policy, num_steps: int, policy_version: int = 0, *, whole_episodes: bool = False
    ) -> Rollout:
        """The next T steps of all environments, in the order of the collectors; see Rollout."""
        if self._policy is None:
            self._set_policy(policy)
        request = self._request(policy, num_steps, policy_version, whole_episodes)
        current, pending = self._next or (request, self._send(request))
        rollouts = self._receive(current, pending)
        if self.config.pipelined:
            self._next = (request, self._send(request))
        rollout = join(rollouts)
        self._recent.extend(rollout.episodes)
        self._staleness = policy_version - rollout.policy_version
        return rollout

    def statistics(self) -> dict[str, float]:
        found = {"charts/staleness": float(self._staleness), "charts/collector_restarts": float(self._restarts)}
        if self._recent:
            found["charts/episodic_return"] = sum(e.episode_return for e in self._recent) / len(self._recent)
            found["charts/episodic_length"] = sum(e.length for e in self._recent) / len(self._recent)
        return found

    def state_dict(self) -> dict[str, Any]:
        """The collectors' states after the last rollout received; one in flight is collected again after a resume."""
        return {
            "collectors": list(self._states),
            "recent": [tuple(episode) for episode in self._recent],
            "restarts": self._restarts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UserError for the state of another number of collectors."""
        import ray

        if len(state["collectors"]) != self.config.num:
            raise UserError(
                f"the checkpoint holds {len(state['collectors'])} collectors; data.collector.num must stay as it was."
            )
        self._states = list(state["collectors"])
        self._restarts = state["restarts"]
        self._recent = deque((Episode(*episode) for episode in state["recent"]), maxlen=_RECENT_EPISODES)
        for actor, kept in zip(self._actors, self._states, strict=True):
            if kept is not None:
                ray.get(actor.load_state.remote(kept))

    def close(self) -> None:
        import ray

        if ray.is_initialized():
            for actor in self._actors:
                ray.kill(actor)
        self._stack.close()

    # ------------------------------------------------------------------ the fleet

    def _connect(self) -> None:
        import os

        import ray

        need = self.config.num_cpus * self.config.num
        if ray.is_initialized():
            cluster = Session("auto")
            free = _free_cpus(need)
            if free < need:
                raise UserError(
                    f"data.collector.num={self.config.num} needs {Resources(need, 0)}; the cluster has {free:g} free."
                )
            return
        cpus = max(len(os.sched_getaffinity(0)), int(-(-need // 1)))
        cluster = self._stack.enter_context(session(num_cpus=cpus))
        cluster.require(Resources(self.config.num_cpus, 0), "each collector")

    def _start(self, index: int) -> Any:
        import ray

        options: dict[str, Any] = {"num_cpus": self.config.num_cpus, "max_restarts": 0}
        actor: Any = ray.remote(**options)(_Actor)
        paths = [str(Path.cwd()), *(path for path in sys.path if path)]
        started = actor.remote(self._share, self._seeds[index], catalog.allowed_imports(), paths)
        if self._policy is not None:
            started.set_policy.remote(self._policy)
        state = self._states[index]
        if state is not None:
            started.load_state.remote(state)
        return started

    def _set_policy(self, policy: Policy) -> None:
        import copy

        import ray

        self._policy = ray.put(copy.deepcopy(policy).cpu())
        for actor in self._actors:
            actor.set_policy.remote(self._policy)

    def _request(self, policy: Policy, num_steps: int, policy_version: int, whole_episodes: bool) -> _Request:
        import ray

        weights = {name: value.detach().cpu().numpy() for name, value in policy.state_dict().items()}
        options = {"whole_episodes": True} if whole_episodes else {}
        return _Request(ray.put(weights), num_steps, policy_version, options)

    def _send(self, request: _Request) -> list[Any]:
        return [actor.collect.remote(*request) for actor in self._actors]

    def _receive(self, request: _Request, pending: list[Any]) -> list[Rollout]:
        """Every collector's rollout; what a dead or hanging one owed is collected by its replacement."""
        import ray

        rollouts = []
        for index, reference in enumerate(pending):
            for attempt in range(_MAX_RESTARTS_IN_A_ROW + 1):
                try:
                    rollout, self._states[index] = ray.get(reference, timeout=self.config.timeout_seconds)
                    break
                except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
                    if attempt == _MAX_RESTARTS_IN_A_ROW:
                        raise Failure(f"collector {index} died {attempt + 1} times in a row: {error}") from None
                    log.warning("collector %d died or hung and is replaced", index)
                    self._restarts += 1
                    ray.kill(self._actors[index])
                    self._actors[index] = self._start(index)
                    reference = self._actors[index].collect.remote(*request)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
            rollouts.append(rollout)
        return rollouts


def join(rollouts: Sequence[Rollout]) -> Rollout:
    """Rollouts (T, n) of several collectors as one (T, N), the shorter ones filled up with rows that are not valid."""
    longest = max(len(rollout.reward) for rollout in rollouts)

    def tensors(values: Sequence[Tensor]) -> Tensor:
        return torch.cat([_lengthened(value, longest) for value in values], 1)

    def obs(values: Sequence[Obs]) -> Obs:
        first = values[0]
        if isinstance(first, dict):
            return {key: tensors([value[key] for value in values]) for key in first}  # type: ignore[index]
        return tensors(values)  # type: ignore[arg-type]

    states = [rollout.first_state for rollout in rollouts if rollout.first_state is not None]
    names = ("action", "reward", "terminated", "truncated", "start", "valid")
    return Rollout(
        obs=obs([rollout.obs for rollout in rollouts]),
        next_obs=obs([rollout.next_obs for rollout in rollouts]),
        first_state=torch.cat(states, 1) if states else None,
        extras={key: tensors([rollout.extras[key] for rollout in rollouts]) for key in rollouts[0].extras},
        episodes=[episode for rollout in rollouts for episode in rollout.episodes],
        policy_version=min(rollout.policy_version for rollout in rollouts),
        **{name: tensors([getattr(rollout, name) for rollout in rollouts]) for name in names},
    )


def _lengthened(value: Tensor, num_steps: int) -> Tensor:
    missing = num_steps - len(value)
    return F.pad(value, [0, 0] * (value.dim() - 1) + [0, missing]) if missing else value
