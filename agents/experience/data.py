"""Experience as data: the handles that an agent's `training_step` works with, and fresh rollouts.

A handle collects on demand with the policy that it is given, and says how many rounds of collect-and-update one
training step covers. Environments, buffers and collectors stay behind it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt, SerializeAsAny

from agents.experience.collector import CollectorConfig, EnvArguments, LocalCollectorConfig
from agents.experience.items import observation_items
from agents.policies.policy import Policy
from agents.types import Rollout
from lab.data.items import Item
from lab.data.module import LabDataModule
from lab.data.spec import DataSpec
from lab.errors import UserError
from lab.experiment import DataConfig, Shared
from lab.ranks import collectives, ranks
from lab.seeding import derive_seed


class EnvironmentData(DataConfig):
    """What agents learn from: it belongs to an environment, in which they are evaluated and shown."""

    env: str
    """a gymnasium id, or package:Env-v0"""
    env_options: dict[str, Any] = Field(default_factory=dict)
    """keyword arguments of the environment"""


class EnvData(EnvironmentData):
    """What all experience has: an environment, how many of it, and a collector."""

    num_envs: Annotated[PositiveInt, Shared("equal")] = 1
    rounds: PositiveInt = 1
    """collect-and-update rounds in one training step; set so that it lasts 50 ms or more"""
    collector: SerializeAsAny[CollectorConfig] = LocalCollectorConfig()

    def arguments(self) -> EnvArguments:
        """What `make_envs` needs."""
        return EnvArguments(self.env, self.num_envs, self.env_options)


class OnPolicyData(EnvData):
    """Fresh rollouts, each used once."""

    kind: Literal["on_policy"] = "on_policy"
    num_steps: PositiveInt = 32
    """steps of each environment in a rollout"""
    whole_episodes: bool = False
    """a rollout is one episode of each environment, of at most `num_steps` steps"""

    def build(self, seed: int) -> OnPolicyExperience:
        """Raises UserError for an environment that cannot be made."""
        return OnPolicyExperience(self, seed)


def environment_of(data: LabDataModule) -> tuple[str, dict[str, Any], int]:
    """Id, options and seed of the environment that an agent's data belong to. Raises UserError for other data."""
    settings, seed = getattr(data, "config", None), getattr(data, "seed", 0)
    if not isinstance(settings, EnvironmentData):
        raise UserError("an agent is evaluated in an environment: data.kind must be on_policy or replay.")
    return settings.env, settings.env_options, seed


class Experience(LabDataModule):
    """The base of the handles; itself the chunk that `training_step` gets."""

    def __init__(self, config: EnvData, seed: int) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        self.rounds = config.rounds
        collector_seed = ranks.rank_seed(derive_seed(seed, "collector"), "collector")
        self.collector = config.collector.build(config.arguments(), collector_seed)
        self.spec: DataSpec = self.collector.spec

    def items(self, sources: Sequence[str]) -> Iterator[Item]:
        """Observations, as JSON or .npy."""
        return observation_items(sources, self.spec.inputs)

    def next_chunk(self) -> Experience:
        return self

    def collect(self, policy: Policy, policy_version: int = 0) -> Rollout:
        """The next rollout of a policy, on the CPU; `policy_version` is the number of updates that made it."""
        raise NotImplementedError

    def statistics(self) -> dict[str, float]:
        """Mean return and length of recent training episodes."""
        return self.collector.statistics()

    def state_dict(self) -> dict[str, Any]:
        return {"collector": self.collector.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.collector.load_state_dict(state_dict["collector"])

    def load_state_dicts(self, states: Sequence[dict[str, Any]]) -> None:
        """Remote collectors are divided anew; environments of this process start fresh episodes."""
        collectors = [state["collector"] for state in states]
        first = dict(collectors[0], recent=[episode for state in collectors for episode in state["recent"]])
        if "collectors" in first:
            whole = [one for state in collectors for one in state["collectors"]]
            first |= {"collectors": whole[ranks.shard(len(whole))]}
        else:
            position = zlib.crc32(first["generator"].numpy().tobytes())
            seed = derive_seed(self.seed, "regrouped", position, ranks.rank())
            first |= {"envs": None, "state": None, "generator": torch.Generator().manual_seed(seed).get_state()}
        self.collector.load_state_dict(first)

    def close(self) -> None:
        self.collector.close()


class OnPolicyExperience(Experience):
    """Rollouts from the current policy."""

    config: OnPolicyData

    def collect(self, policy: Policy, policy_version: int = 0) -> Rollout:
        options = {"whole_episodes": True} if self.config.whole_episodes else {}
        rollout = self.collector.collect(policy, self.config.num_steps, policy_version, **options)
        if self.config.whole_episodes:  # every rank updates as often as the others
            rollout = rollout.lengthened(collectives.all_reduce_max(len(rollout.reward)))
        return rollout
