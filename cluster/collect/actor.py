"""What runs in a collector process: a LocalCollector, and a policy that takes on the weights that the learner sends."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from agents.envs.make import make_envs
from agents.experience.collector import EnvArguments, LocalCollector
from agents.policies.policy import Policy
from agents.types import Rollout
from cluster.collect.messages import PackedWeights, Parcel, packed, portable, reply
from cluster.session import cores
from cluster.session.imports import Imports


class Request(NamedTuple):
    """A rollout that is asked for, and asked for again, as it is, when its actor dies."""

    weights: Any
    """PackedWeights, or a reference to them"""
    num_steps: int
    policy_version: int
    whole_episodes: bool


class CollectorActor:
    """One collector of a fleet."""

    def __init__(self, imports: Imports) -> None:
        torch.set_num_threads(1)
        imports.adopt()
        self.collector: LocalCollector | None = None
        self.failure: Exception | None = None
        self.policy: Policy | None = None
        self.offered: tuple[PackedWeights, int] | None = None

    def begin(
        self, envs: EnvArguments, seed: int, policy: Policy, state: bytes | None, own_cores: Sequence[int] | None
    ) -> None:
        """Make the environments, and go on from another collector's `state`; `own_cores` are those to keep to.

        An error is kept: `collect` raises it.
        """
        try:
            if own_cores is not None:
                cores.keep_to(own_cores)
            self.policy = policy.eval()
            self.weights = policy.state_dict()
            self.parcel = Parcel(self.weights)
            self.collector = LocalCollector(make_envs(envs.env, envs.num_envs, envs.options), seed)
            if state is not None:
                self.collector.load_state_dict(pickle.loads(state))
        except Exception as error:
            self.failure = portable(error)

    def offer(self, weights: PackedWeights, policy_version: int) -> None:
        """Weights for the rollouts that begin from now on; called while a `collect` may be going on."""
        self.offered = (weights, policy_version)

    def collect(
        self, weights: PackedWeights, num_steps: int, policy_version: int, whole_episodes: bool
    ) -> bytes | tuple[Rollout, bytes]:
        """A rollout and the collector's state after it, as `reply` packs them."""
        if self.failure is not None:
            raise self.failure
        assert self.policy is not None
        assert self.collector is not None
        if self.offered is not None and self.offered[1] > policy_version:
            weights, policy_version = self.offered
        self.parcel.unpack(weights, self.weights)
        try:
            rollout = self.collector.collect(self.policy, num_steps, policy_version, whole_episodes=whole_episodes)
        except Exception as error:
            raise portable(error) from None
        return reply(rollout, packed(self.collector.state_dict()))
