"""Distributed collection: a fleet of Ray actors behind the same `collect()` as the local collector.

    lab train pg/cartpole data.num_envs=64 data.collector.kind=remote data.collector.num=8

Each actor steps its share of the environments for a whole rollout; the weights go out once a collect, through the
object store unless they are so few that they travel with the request.

- synchronous: the actors wait while the learner updates, and the policy is always the newest.
- pipelined: the next rollout is collected meanwhile, with the policy of the collect before: a run still repeats, also
  when it is stopped and resumed.
- asynchronous: actors never wait, up to `max_staleness` rollouts ahead, each with the newest policy that had come when
  it began, so no run repeats. That is IMPALA with V-trace (Espeholt et al. 2018), and with replay Ape-X (Horgan et al.
  2018).

`charts/staleness` counts in updates, `charts/staleness_collects` in collects, how old the policy was that acted.

T time steps, N environments of all actors, n environments of one.
"""

from __future__ import annotations

import pickle
from collections import deque
from typing import Annotated, Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from agents.envs.make import make_envs
from agents.experience.collector import CollectorConfig, EnvArguments
from agents.policies.policy import Policy
from agents.types import Episode, Rollout
from cluster.collect.actor import Request
from cluster.collect.fleet import Fleet
from cluster.collect.messages import Parcel, join, packed
from cluster.collect.object_store import fetched, sent
from lab.data.spec import DataSpec
from lab.errors import UserError
from lab.experiment import Shared
from lab.seeding import derive_seed

_RECENT_EPISODES = 100


class RemoteCollectorConfig(CollectorConfig):
    """A fleet of collector processes on a Ray cluster."""

    kind: Literal["remote"] = "remote"
    num: Annotated[PositiveInt, Shared("equal")] = 2
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


class RemoteCollector:
    """The same `collect()`, done by a fleet.

    Uses the Ray cluster that the process is connected to (in a sweep or a submitted job), else a private one.
    """

    def __init__(self, config: RemoteCollectorConfig, envs: EnvArguments, seed: int) -> None:
        self.config, self.num_envs = config, envs.num_envs
        one = make_envs(envs.env, 1, envs.options)
        self.spec: DataSpec = one.spec
        one.close()
        self._recent: deque[Episode] = deque(maxlen=_RECENT_EPISODES)
        self._versions: deque[int] = deque(maxlen=config.ahead + 1)
        self._staleness = {"charts/staleness": 0.0, "charts/staleness_collects": 0.0}
        self._parcel: Parcel
        self.fleet = Fleet(
            envs._replace(num_envs=envs.num_envs // config.num),
            [derive_seed(seed, "collector", index) for index in range(config.num)],
            config.num_cpus,
            config.timeout_seconds,
            takes_offers=config.mode == "asynchronous",
        )

    def collect(
        self, policy: Policy, num_steps: int, policy_version: int = 0, *, whole_episodes: bool = False
    ) -> Rollout:
        """The next T steps of all environments, (T, N), in the order of the collectors; see Rollout.

        Raises what a collector raised, or Failure when one dies again and again or there is no room for rollouts.
        """
        if self.fleet.policy is None:
            self.fleet.begin(policy)
            self._parcel = Parcel(policy.state_dict())
        request = self._request(policy, num_steps, policy_version, whole_episodes)
        if self.config.mode == "asynchronous":
            self.fleet.offer(request.weights, policy_version)
        self.fleet.top_up(request, 1)
        rollout = join([self.fleet.receive(index) for index in range(self.config.num)])
        self.fleet.top_up(request, self.config.ahead)
        self._recent.extend(rollout.episodes)
        self._versions.append(policy_version)
        self._staleness = {
            "charts/staleness": float(policy_version - rollout.policy_version),
            "charts/staleness_collects": float(sum(version > rollout.policy_version for version in self._versions)),
        }
        return rollout

    def statistics(self) -> dict[str, float]:
        """Staleness, restarts, and mean return and length of the last 100 episodes, for the run's metrics."""
        metrics = {**self._staleness, "charts/collector_restarts": float(self.fleet.restarts)}
        if self._recent:
            metrics["charts/episodic_return"] = sum(e.episode_return for e in self._recent) / len(self._recent)
            metrics["charts/episodic_length"] = sum(e.length for e in self._recent) / len(self._recent)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The collectors' states after the last rollout received, and the rollouts under way: what was asked for, and
        the weights that it is asked of. Those of asynchronous collectors are asked for anew after a resume."""
        under_way = [] if self.config.mode == "asynchronous" else self.fleet.under_way()
        return {
            "collectors": [None if state is None else pickle.loads(state) for state in self.fleet.states],
            "under_way": [_saved(request) for request in under_way],
            "versions": list(self._versions),
            "recent": [tuple(episode) for episode in self._recent],
            "restarts": self.fleet.restarts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UserError for the state of another number of collectors."""
        if len(state["collectors"]) != self.config.num:
            raise UserError(
                f"the checkpoint holds {len(state['collectors'])} collectors; data.collector.num must stay as it was."
            )
        states = [None if one is None else packed(one) for one in state["collectors"]]
        self.fleet.reset(states, [_restored(request) for request in state.get("under_way", ())], state["restarts"])
        self._versions.extend(state.get("versions", ()))
        self._recent = deque((Episode(*episode) for episode in state["recent"]), maxlen=_RECENT_EPISODES)

    def close(self) -> None:
        self.fleet.close()

    def _request(self, policy: Policy, num_steps: int, policy_version: int, whole_episodes: bool) -> Request:
        weights = self._parcel.pack(policy.state_dict())
        return Request(sent(weights), num_steps, policy_version, whole_episodes)


def _saved(request: Request) -> dict[str, Any]:
    """A request as a checkpoint holds it."""
    weights = torch.frombuffer(bytearray(fetched(request.weights)), dtype=torch.uint8)
    return request._replace(weights=weights)._asdict()


def _restored(saved: dict[str, Any]) -> Request:
    request = Request(**saved)
    return request._replace(weights=sent(request.weights.numpy()))
