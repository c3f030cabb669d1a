"""Distributed collection: a fleet of Ray actors behind the same `collect()` as the local collector.

    lab train pg/cartpole data.num_envs=64 data.collector.kind=remote data.collector.num=8

Each actor steps its share of the environments for a whole rollout; the weights go out once a collect, through the
object store unless they are so few that they travel with the request. Every rollout comes with the state that its actor
had after it, so a replacement of a dead actor repeats what was lost, and nothing arrives twice.

- synchronous: the actors wait while the learner updates, and the policy is always the newest.
- pipelined: the next rollout is collected meanwhile, with the policy of the collect before: a run still repeats.
- asynchronous: actors never wait, up to `max_staleness` rollouts ahead, each with the newest policy that had come when
  it began. That is IMPALA with V-trace (Espeholt et al. 2018), and with replay Ape-X (Horgan et al. 2018).

`charts/staleness` counts in updates, `charts/staleness_collects` in collects, how old the policy was that acted.

T time steps, N environments of all actors, n environments of one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from agents.envs.make import make_envs
from agents.experience.collector import CollectorConfig, EnvArguments, LocalCollector
from agents.policies.policy import Policy
from agents.types import Episode, Rollout
from cluster.collect.messages import SMALL_BYTES, Array, Parcel, join, opened, packed, reply
from cluster.session import cores
from cluster.session.session import Resources, session
from lab import catalog
from lab.data.spec import DataSpec
from lab.errors import Failure, UserError
from lab.seeding import derive_seed

log = logging.getLogger("lab")

_RECENT_EPISODES = 100
_MAX_RESTARTS_IN_A_ROW = 5
_RELEASE_SECONDS = 10.0
_OFFERS = "offers"
Sent = Array | bytes
"""packed weights: out of the object store, or as they came with the request"""


class RemoteCollectorConfig(CollectorConfig):
    """A fleet of collector processes on a Ray cluster."""

    kind: Literal["remote"] = "remote"
    num: PositiveInt = 2
    """collector processes; data.num_envs is divided among them"""
    mode: Literal["synchronous", "pipelined", "asynchronous"] = "synchronous"
    """whether collectors wait for the learner, work one rollout ahead, or up to max_staleness ahead"""
    max_staleness: PositiveInt = 4
    """asynchronous: a rollout's policy is at most so many collects old"""
    num_cpus: NonNegativeFloat = 1.0
    """CPUs that the cluster sets aside for each"""
    timeout_seconds: PositiveFloat = 600.0
    """a collector that takes longer for a rollout is replaced"""

    @property
    def ahead(self) -> int:
        """Rollouts that each collector may have under way while the learner updates."""
        return {"synchronous": 0, "pipelined": 1, "asynchronous": self.max_staleness}[self.mode]

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
        if free >= need or time.monotonic() > deadline or ray.cluster_resources().get("CPU", 0.0) < need:
            return free
        time.sleep(0.1)


class _Actor:
    """What runs in a collector process: a LocalCollector and a policy that takes on the weights sent."""

    def __init__(self, imports: Sequence[str], paths: Sequence[str]) -> None:
        torch.set_num_threads(1)
        sys.path.extend(path for path in paths if path not in sys.path)
        for name in imports:
            catalog.allow_import(name)
        self.collector: LocalCollector | None = None
        self.failure: Exception | None = None
        self.policy: Policy | None = None
        self.offered: tuple[Sent, int] | None = None

    def begin(
        self, envs: EnvArguments, seed: int, policy: Policy, state: bytes | None, kept: Sequence[int] | None
    ) -> None:
        """Make the environments, and go on where another collector was, on the cores `kept` for it.

        `collect` says if that failed.
        """
        try:
            if kept is not None:
                cores.keep_to(kept)
            self.policy = policy.eval()
            self.weights = policy.state_dict()
            self.parcel = Parcel(self.weights)
            self.collector = LocalCollector(make_envs(envs.env, envs.num_envs, envs.options), seed)
            if state is not None:
                self.collector.load_state_dict(pickle.loads(state))
        except Exception as error:
            self.failure = error

    def offer(self, weights: Sent, policy_version: int) -> None:
        """Weights for the rollouts that begin from now on; called beside a `collect` that is going on."""
        self.offered = (weights, policy_version)

    def collect(
        self, weights: Sent, num_steps: int, policy_version: int, whole_episodes: bool
    ) -> bytes | tuple[Rollout, bytes]:
        """A rollout and the collector's state after it."""
        if self.failure is not None:
            raise self.failure
        assert self.policy is not None
        assert self.collector is not None
        if self.offered is not None and self.offered[1] > policy_version:
            weights, policy_version = self.offered
        self.parcel.unpack(weights, self.weights)
        rollout = self.collector.collect(self.policy, num_steps, policy_version, whole_episodes=whole_episodes)
        return reply(rollout, packed(self.collector.state_dict()))


class _Request(NamedTuple):
    """A rollout that was asked for: repeated as it is when its actor dies."""

    weights: Any
    num_steps: int
    policy_version: int
    whole_episodes: bool


class _Pending(NamedTuple):
    """A rollout under way."""

    request: _Request
    reference: Any


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
        self._states: list[bytes | None] = [None] * config.num
        self._recent: deque[Episode] = deque(maxlen=_RECENT_EPISODES)
        self._versions: deque[int] = deque(maxlen=config.ahead + 1)
        self._staleness = {"charts/staleness": 0.0, "charts/staleness_collects": 0.0}
        self._restarts = 0
        self._policy: Any = None
        self._cores: list[Sequence[int] | None] = [None] * config.num
        self._pending: list[deque[_Pending]] = [deque() for _ in range(config.num)]
        self._stack = contextlib.ExitStack()
        self._connect()
        self._actors = [self._start() for _ in range(config.num)]
        self._spare: Any = None

    def collect(
        self, policy: Policy, num_steps: int, policy_version: int = 0, *, whole_episodes: bool = False
    ) -> Rollout:
        """The next T steps of all environments, in the order of the collectors; see Rollout."""
        if self._policy is None:
            self._begin_all(policy)
        request = self._request(policy, num_steps, policy_version, whole_episodes)
        if self.config.mode == "asynchronous":
            for actor in self._actors:
                actor.offer.options(concurrency_group=_OFFERS).remote(request.weights, policy_version)
        self._top_up(request, 1)
        rollout = join([self._receive(index) for index in range(self.config.num)])
        self._top_up(request, self.config.ahead)
        self._recent.extend(rollout.episodes)
        self._versions.append(policy_version)
        self._staleness = {
            "charts/staleness": float(policy_version - rollout.policy_version),
            "charts/staleness_collects": float(sum(version > rollout.policy_version for version in self._versions)),
        }
        return rollout

    def statistics(self) -> dict[str, float]:
        found = {**self._staleness, "charts/collector_restarts": float(self._restarts)}
        if self._recent:
            found["charts/episodic_return"] = sum(e.episode_return for e in self._recent) / len(self._recent)
            found["charts/episodic_length"] = sum(e.length for e in self._recent) / len(self._recent)
        return found

    def state_dict(self) -> dict[str, Any]:
        """The collectors' states after the last rollout received; one in flight is collected again after a resume."""
        return {
            "collectors": [None if state is None else pickle.loads(state) for state in self._states],
            "recent": [tuple(episode) for episode in self._recent],
            "restarts": self._restarts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UserError for the state of another number of collectors."""
        if len(state["collectors"]) != self.config.num:
            raise UserError(
                f"the checkpoint holds {len(state['collectors'])} collectors; data.collector.num must stay as it was."
            )
        self._states = [None if kept is None else packed(kept) for kept in state["collectors"]]
        for pending in self._pending:
            pending.clear()
        self._restarts = state["restarts"]
        self._recent = deque((Episode(*episode) for episode in state["recent"]), maxlen=_RECENT_EPISODES)
        self._policy = None  # so that all begin anew, from these states

    def close(self) -> None:
        import ray

        if ray.is_initialized():
            for actor in [*self._actors, *([self._spare] if self._spare is not None else [])]:
                ray.kill(actor)
        self._stack.close()

    # ------------------------------------------------------------------ the fleet

    def _connect(self) -> None:
        import ray

        need = self.config.num_cpus * self.config.num
        if ray.is_initialized():
            free = _free_cpus(need)
            if free < need:
                raise UserError(
                    f"data.collector.num={self.config.num} needs {Resources(need, 0)}; the cluster has {free:g} free."
                )
            return
        self._cores = [*cores.divided(self.config.num)]
        cpus = max(len(os.sched_getaffinity(0)), int(-(-(need + self.config.num_cpus) // 1)))  # a spare one too
        self._stack.enter_context(session(num_cpus=cpus))

    def _start(self) -> Any:
        """A new process, which can take any collector's place."""
        import ray

        options: dict[str, Any] = {"num_cpus": self.config.num_cpus, "max_restarts": 0}
        if self.config.mode == "asynchronous":
            options["concurrency_groups"] = {_OFFERS: 1}  # a thread beside the one that collects
        actor: Any = ray.remote(**options)(_Actor)
        return actor.remote(catalog.allowed_imports(), [str(Path.cwd()), *(path for path in sys.path if path)])

    def _begin_all(self, policy: Policy) -> None:
        import copy

        self._policy = _put(copy.deepcopy(policy).cpu())
        self._parcel = Parcel(policy.state_dict())
        for index in range(self.config.num):
            self._begin(index)

    def _begin(self, index: int) -> None:
        """Let an actor be a collector, from the state after the last rollout that was received of that one."""
        state, kept = self._states[index], self._cores[index]
        self._actors[index].begin.remote(self._share, self._seeds[index], self._policy, state, kept)

    def _request(self, policy: Policy, num_steps: int, policy_version: int, whole_episodes: bool) -> _Request:
        weights = self._parcel.pack(policy.state_dict())
        sent = weights.tobytes() if weights.nbytes <= SMALL_BYTES else _put(weights)
        return _Request(sent, num_steps, policy_version, whole_episodes)

    def _top_up(self, request: _Request, num: int) -> None:
        """Let every collector have `num` rollouts under way."""
        for actor, pending in zip(self._actors, self._pending, strict=True):
            while len(pending) < num:
                pending.append(_Pending(request, actor.collect.remote(*request)))

    def _receive(self, index: int) -> Rollout:
        """A collector's oldest rollout under way, of arrays; a replacement collects what a dead or hanging one owed."""
        import ray

        pending = self._pending[index]
        for _ in range(_MAX_RESTARTS_IN_A_ROW + 1):
            try:
                found = ray.get(pending[0].reference, timeout=self.config.timeout_seconds)
                rollout, self._states[index] = opened(found)
                pending.popleft()
                return rollout
            except ray.exceptions.RayTaskError as e:
                raise _explained(e.cause) from None
            except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as e:
                raise _explained(e) from None
            except (ray.exceptions.RayError, TimeoutError) as e:  # it died or hung, or its machine did
                error: Exception = e
                self._replace(index)
        raise Failure(f"collector {index} died {_MAX_RESTARTS_IN_A_ROW + 1} times in a row: {error}")

    def _replace(self, index: int) -> None:
        """Another process goes on after the last rollout received of a dead one, and owes what that one owed.

        From the first death on a spare process is kept, for deaths come in series and a start takes seconds.
        """
        import ray

        log.warning("collector %d died or hung and is replaced", index)
        self._restarts += 1
        ray.kill(self._actors[index])
        actor = self._actors[index] = self._spare or self._start()
        self._spare = self._start()
        self._begin(index)
        owed = [_Pending(request, actor.collect.remote(*request)) for request, _ in self._pending[index]]
        self._pending[index].clear()
        self._pending[index].extend(owed)


def _put(value: Any) -> Any:
    """`ray.put`. Raises Failure when there is no room."""
    import ray

    try:
        return ray.put(value)
    except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
        raise _explained(error) from None


def _explained(error: Exception) -> Exception:
    """The error itself, or what to say when rollouts do not fit the object store."""
    import ray

    if not isinstance(error, ray.exceptions.ObjectStoreFullError | ray.exceptions.OutOfDiskError):
        return error
    return Failure(
        "the cluster's object store is full, and so is the disk that it falls back to: free some, or make rollouts "
        "smaller (data.num_steps, data.num_envs, data.collector.max_staleness)."
    )
