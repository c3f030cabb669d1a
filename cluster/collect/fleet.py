"""A fleet of collector processes, and the rollouts that each of them owes.

Every rollout comes with the state that its actor had after it, so a replacement of a dead actor repeats what was lost,
and nothing arrives twice.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from agents.experience.collector import EnvArguments
from agents.policies.policy import Policy
from agents.types import Rollout
from cluster.collect.actor import CollectorActor, Request
from cluster.collect.messages import opened
from cluster.collect.object_store import explained, put
from cluster.session import cores
from cluster.session.error_lines import last_line
from cluster.session.imports import Imports
from cluster.session.session import Resources, session
from lab.errors import Failure, UserError

log = logging.getLogger("lab")

_MAX_RESTARTS_IN_A_ROW = 5
_MAX_HANGS, _HANG_ROLLOUTS = 2, 100  # so many hangs of a collector, with fewer rollouts than that between two
_START_SECONDS = 600.0  # for a process, its imports and environments
_RELEASE_SECONDS = 10.0
_PIECE_SECONDS = 0.5
_OFFERS = "offers"


class _Pending(NamedTuple):
    """A rollout under way."""

    request: Request
    reference: Any


class Fleet:
    """Actors on the Ray cluster that the process is connected to, else on a private one.

    Args:
        envs: the environments of each actor.
        seeds: of each actor; there are as many actors as seeds.
        num_cpus: CPUs that the cluster sets aside for each.
        timeout_seconds: an actor that takes longer for a rollout is replaced.
        takes_offers: whether new weights reach an actor that is collecting.

    Raises UserError when the cluster has too few free CPUs.
    """

    def __init__(
        self, envs: EnvArguments, seeds: Sequence[int], num_cpus: float, timeout_seconds: float, takes_offers: bool
    ) -> None:
        self.envs, self.seeds = envs, seeds
        self.num_cpus, self.timeout_seconds, self.takes_offers = num_cpus, timeout_seconds, takes_offers
        num = len(seeds)
        self.states: list[bytes | None] = [None] * num
        """of each collector after the last rollout that was received of it"""
        self.cores: list[Sequence[int] | None] = [None] * num
        self._begun: list[Any] = [None] * num
        self._hangs, self._since_hang = [0] * num, [0] * num
        self.restarts = 0
        self.policy: Any = None
        """a reference to the policy that the actors began with; None before `begin`"""
        self._pending: list[deque[_Pending]] = [deque() for _ in range(num)]
        self._owed: Sequence[Request] = ()
        self._stack = contextlib.ExitStack()
        self._connect()
        self.actors = [self._start() for _ in range(num)]
        self._spare: Any = None

    def begin(self, policy: Policy) -> None:
        """Let every actor be a collector, from its state, with the rollouts under way that were then."""
        self.policy = put(copy.deepcopy(policy).cpu())
        for index in range(len(self.actors)):
            self._begin(index)
        for num, request in enumerate(self._owed, 1):
            self.top_up(request, num)
        self._owed = ()

    def under_way(self) -> list[Request]:
        """What every collector owes between two collects, oldest first."""
        return [*self._owed, *(pending.request for pending in self._pending[0])]

    def reset(self, states: Sequence[bytes | None], owed: Sequence[Request], restarts: int) -> None:
        """Forget what is under way; the next `begin` goes on from these states, with these rollouts under way."""
        self.states, self._owed, self.restarts, self.policy = list(states), owed, restarts, None
        for pending in self._pending:
            pending.clear()

    def offer(self, weights: Any, policy_version: int) -> None:
        """Packed weights (or a reference to them) for all rollouts that begin from now on."""
        for actor in self.actors:
            actor.offer.options(concurrency_group=_OFFERS).remote(weights, policy_version)

    def top_up(self, request: Request, num: int) -> None:
        """Let every collector have `num` rollouts under way."""
        for actor, pending in zip(self.actors, self._pending, strict=True):
            while len(pending) < num:
                pending.append(_Pending(request, actor.collect.remote(*request)))

    def receive(self, index: int) -> Rollout:
        """A collector's oldest rollout under way, of arrays; a replacement collects what a dead or hanging one owed.

        Raises what the collector raised, or Failure when it dies again and again or there is no room for rollouts.
        """
        import ray

        pending, deaths = self._pending[index], 0
        while True:
            try:
                _get(self._begun[index], _START_SECONDS)
                answer = _get(pending[0].reference, self.timeout_seconds)
                rollout, self.states[index] = opened(answer)
                pending.popleft()
                self._since_hang[index] += 1
                return rollout
            except ray.exceptions.RayTaskError as e:
                raise explained(e.cause) from None
            except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as e:
                raise explained(e) from None
            except (ray.exceptions.GetTimeoutError, TimeoutError):
                self._hangs[index] = 1 if self._since_hang[index] > _HANG_ROLLOUTS else self._hangs[index] + 1
                self._since_hang[index] = 0
                if self._hangs[index] > _MAX_HANGS:
                    raise Failure(
                        f"collector {index} gave no rollout within data.collector.timeout_seconds="
                        f"{self.timeout_seconds:g}, {self._hangs[index]} times: {self.envs.env} hangs, or a rollout "
                        f"takes longer; data.collector.kind=local shows which."
                    ) from None
            except ray.exceptions.RayError as e:  # it died, or its machine did
                deaths += 1
                if deaths > _MAX_RESTARTS_IN_A_ROW:
                    raise Failure(f"collector {index} died {deaths} times in a row: {_cause(e)}") from None
            self._replace(index)

    def close(self) -> None:
        """End the actors, and the cluster if it is private."""
        import ray

        if ray.is_initialized():
            for actor in [*self.actors, *([self._spare] if self._spare is not None else [])]:
                ray.kill(actor)
        self._stack.close()

    def _connect(self) -> None:
        import ray

        num = len(self.seeds)
        need = self.num_cpus * num
        if ray.is_initialized():
            free = _free_cpus(need)
            if free < need:
                raise UserError(f"data.collector.num={num} needs {Resources(need, 0)}; the cluster has {free:g} free.")
            return
        self.cores = [*cores.divided(num)]
        num_cpus = max(len(os.sched_getaffinity(0)), math.ceil(need + self.num_cpus))  # a spare one too
        self._stack.enter_context(session(num_cpus=num_cpus))

    def _start(self) -> Any:
        """A new process, which can take any collector's place."""
        import ray

        options: dict[str, Any] = {"num_cpus": self.num_cpus, "max_restarts": 0}
        if self.takes_offers:
            options["concurrency_groups"] = {_OFFERS: 1}  # a thread beside the one that collects
        actor: Any = ray.remote(**options)(CollectorActor)
        return actor.remote(Imports.of_this_process())

    def _begin(self, index: int) -> None:
        self._begun[index] = self.actors[index].begin.remote(
            self.envs, self.seeds[index], self.policy, self.states[index], self.cores[index]
        )

    def _replace(self, index: int) -> None:
        """Another process goes on after the last rollout received of a dead one, and owes what that one owed.

        From the first death on there is a spare process, for deaths come in series and a start takes seconds.
        """
        import ray

        log.warning("collector %d died or hung and is replaced", index)
        self.restarts += 1
        ray.kill(self.actors[index])
        actor = self.actors[index] = self._spare or self._start()
        self._spare = self._start()
        self._begin(index)
        owed = [_Pending(request, actor.collect.remote(*request)) for request, _ in self._pending[index]]
        self._pending[index].clear()
        self._pending[index].extend(owed)


def _get(reference: Any, timeout: float) -> Any:
    """What a reference holds, asked for in short pieces: between them Python sees signals, in them it may not.

    Raises ray.exceptions.GetTimeoutError after `timeout` seconds, and what the task raised.
    """
    import ray

    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        try:
            return ray.get(reference, timeout=max(0.0, min(_PIECE_SECONDS, left)))
        except ray.exceptions.GetTimeoutError:
            if left <= _PIECE_SECONDS:
                raise


def _cause(error: Exception) -> str:
    """Why a process died, and what can be done."""
    import ray

    if isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in str(error):
        return "its machine ran low on memory; take fewer data.collector.num, data.num_envs or data.num_steps."
    return f"{last_line(error)} (an environment that ends its process does this too)"


def _free_cpus(need: float) -> float:
    """The cluster's free CPUs, once there are `need` of them or ended actors have had time to give theirs back."""
    import ray

    deadline = time.monotonic() + _RELEASE_SECONDS
    while True:
        free: float = ray.available_resources().get("CPU", 0.0)
        if free >= need or time.monotonic() > deadline or ray.cluster_resources().get("CPU", 0.0) < need:
            return free
        time.sleep(0.1)
