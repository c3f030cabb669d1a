"""What an experiment says of an algorithm of RLlib and of its environments, and what the RLModules make of that.

The kinds `module.kind=rllib` and `data.kind=rllib` add what they build (agent.py, experience.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from agents.algorithms.ppo import PPOConfig
from agents.algorithms.q_agent import discrete_actions
from agents.envs.make import make_env
from agents.experience.data import EnvironmentData
from agents.policies.actor_critic import ActorCritic
from agents.policies.exploration import EpsilonConfig
from agents.policies.policy import Policy
from agents.policies.q_network import QNetwork, QPolicy
from agents.policies.return_distributions import ExpectedConfig
from cluster.session.imports import Imports
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec
from lab.errors import UserError
from lab.experiment import ModuleConfig

Option = bool | int | float | list[list[float]] | None
"""what may stand in a file: never a name that RLlib would import"""

MODULE_ID = "default_policy"
"""RLlib's name for the one policy of an Algorithm"""


class EnvRunnerSettings(EnvironmentData):
    """Environments that RLlib steps by itself."""

    num_env_runners: NonNegativeInt = 0
    """processes that collect; 0: the one that trains does"""
    num_envs: PositiveInt = 8
    """environments of each of them"""


class AlgorithmSettings(ModuleConfig):
    """An algorithm of RLlib on a backbone of the registry."""

    algorithm: Literal["ppo", "appo", "impala", "dqn"] = "ppo"
    backbone: BackboneConfig = BackboneConfig("mlp", hidden=(64, 64), activation="tanh")
    shared_backbone: bool = False
    """one backbone for policy and value"""
    normalize_obs: bool = False
    """by the moments that `trainer.start_from` brings, which stay as they are"""
    lr: PositiveFloat = 3e-4
    gamma: float = Field(default=0.99, ge=0, le=1)
    max_grad_norm: PositiveFloat | None = 0.5
    epsilon: EpsilonConfig = EpsilonConfig()
    """dqn: exploration"""
    capacity: PositiveInt = 50_000
    """dqn: transitions kept"""
    options: dict[str, Option] = Field(default_factory=dict)
    """more arguments of the algorithm's AlgorithmConfig.training(): numbers, switches and schedules"""


def build_policy(settings: AlgorithmSettings, spec: DataSpec) -> Policy:
    """The lab's policy for an algorithm: that of `dqn` recipes for dqn, else that of `ppo` recipes.

    Raises UserError for a recurrent or frozen backbone, or for dqn without discrete actions.
    """
    if settings.backbone.recurrent:
        raise UserError(f"module.backbone.name={settings.backbone.name!r} is recurrent; RLlib's agents here are not.")
    if settings.backbone.is_frozen:
        raise UserError("module.backbone.frozen is not for RLlib's agents, whose optimizers take all parameters.")
    if settings.algorithm == "dqn":
        num_actions = discrete_actions(settings, spec)
        q_network = QNetwork(settings.backbone, spec, num_actions, 1, dueling=False, hidden=(), sigma=None)
        return QPolicy(q_network, ExpectedConfig().build("huber"))
    network = {name: getattr(settings, name) for name in ("backbone", "shared_backbone", "normalize_obs")}
    return ActorCritic(PPOConfig(**network), spec)


def env_maker(env: str, options: Mapping[str, Any]) -> Any:
    """A function that makes the environment in whatever process RLlib calls it."""
    imports = Imports.of_this_process()

    def make(context: Any) -> Any:
        imports.adopt()
        return make_env(env, options)

    return make
