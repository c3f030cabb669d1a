"""What the agents share that learn action values: epsilon, and for networks a replay buffer and a target network."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from agents.algorithms.agent import Agent
from agents.experience.replay import ReplayExperience
from agents.policies.exploration import EpsilonConfig, EpsilonGreedyPolicy
from agents.policies.q_network import move_target
from agents.types import Rollout
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec, Discrete
from lab.engine.loss import Metrics
from lab.engine.optimizers import OptimizerConfig
from lab.errors import UserError
from lab.experiment import ModuleConfig, Shared
from lab.ranks import collectives
from lab.training.learner import StepMetrics


class QConfig(ModuleConfig):
    """Action values, and exploration by epsilon."""

    gamma: float = Field(default=0.99, ge=0, le=1)
    epsilon: EpsilonConfig = EpsilonConfig()


QConfigT = TypeVar("QConfigT", bound=QConfig)


class QAgent(Agent[QConfigT]):
    """Sets epsilon before each rollout; its actions must be discrete."""

    policy: EpsilonGreedyPolicy

    def __init__(self, config: QConfigT, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.num_actions = discrete_actions(config, spec)

    def collect(self, experience: Any) -> Rollout:
        self.policy.epsilon.fill_(self.config.epsilon.at(self.counters["env_steps"]))
        return super().collect(experience)

    def charts(self) -> StepMetrics:
        return {"charts/epsilon": float(self.policy.epsilon)}


class QNetworkConfig(QConfig):
    """A Q-network, its replay and its target network."""

    backbone: BackboneConfig
    head_hidden: tuple[PositiveInt, ...] = ()
    """hidden layers after the backbone"""
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, max_grad_norm=10.0)
    batch_size: Annotated[PositiveInt, Shared("equal")]
    updates_per_env_step: PositiveFloat
    initial_reward: float = 0.0
    """values start at this reward's return for ever, r / (1 - gamma); the highest one is optimism (Sutton and Barto
    2018, section 2.6)"""
    target_period: PositiveInt = 100
    """updates (not steps) between copies to the target network; ignored with target_tau"""
    target_tau: NonNegativeFloat = 0.0
    """if above 0: after each update, move the target network this share of the way (polyak averaging)"""
    loss: Literal["huber", "mse"]

    @model_validator(mode="before")
    @classmethod
    def _as_it_was_written_before(cls, values: Any) -> Any:
        """`initial_value`, the value itself: the reward follows from gamma."""
        if not isinstance(values, dict) or "initial_value" not in values:
            return values
        value, gamma = values["initial_value"], values.get("gamma", cls.model_fields["gamma"].default)
        if not all(isinstance(number, int | float) for number in (value, gamma)) or (value and gamma == 1):
            return values  # refused as a field that is not known
        rest = {name: given for name, given in values.items() if name != "initial_value"}
        return {**rest, "initial_reward": value * (1 - gamma)}

    @property
    def initial_value(self) -> float:
        """What all values start at."""
        return self.initial_reward / (1 - self.gamma) if self.initial_reward else 0.0

    @model_validator(mode="after")
    def _check_initial_value(self) -> Self:
        if self.initial_reward and self.gamma == 1:
            raise ValueError(f"initial_reward={self.initial_reward:g} has no finite return for ever with gamma=1.")
        return self


QNetworkConfigT = TypeVar("QNetworkConfigT", bound=QNetworkConfig)


class QNetworkAgent(QAgent[QNetworkConfigT]):
    """Collects into replay, then updates as often as the update ratio owes; subclasses give `learn_from_replay`."""

    q_network: nn.Module
    target_network: nn.Module

    def __init__(self, config: QNetworkConfigT, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.updates_owed = 0.0

    def on_fit_start(self) -> None:
        """Open the replay buffer. Raises UserError when the data are no replay."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ReplayExperience):
            raise UserError(f"module.kind={self.config.kind!r} learns from replay: data.kind must be 'replay'.")
        data.open_buffer(self.config.gamma, self.device)

    def on_started_from(self) -> None:
        self.target_network.load_state_dict(self.q_network.state_dict())

    def learn(self, rollout: Rollout, experience: ReplayExperience) -> list[Metrics]:
        if not self.is_ready(experience):
            return []
        self.updates_owed += collectives.total(rollout.num_env_steps) * self.config.updates_per_env_step
        num_updates = int(self.updates_owed)
        self.updates_owed -= num_updates
        return self.learn_from_replay(experience, num_updates)

    def is_ready(self, experience: ReplayExperience) -> bool:
        """Whether there is enough in replay to begin."""
        return experience.ready

    def learn_from_replay(self, experience: ReplayExperience, num_updates: int) -> list[Metrics]:
        """Update so many times on minibatches from replay; returns the metrics of each update."""
        raise NotImplementedError

    def update_with_extras(self, batch: Any) -> tuple[Metrics, dict[str, Tensor]]:
        """One update, after which the target network follows."""
        metrics, extras = super().update_with_extras(batch)
        move_target(
            self.target_network,
            self.q_network,
            self.counters["updates"],
            period=self.config.target_period,
            tau=self.config.target_tau,
        )
        return metrics, extras

    def train_state(self) -> dict[str, Any]:
        return super().train_state() | {"updates_owed": self.updates_owed}

    def load_train_state(self, state: dict[str, Any]) -> None:
        super().load_train_state(state)
        self.updates_owed = state["updates_owed"]


def discrete_actions(config: ModuleConfig, spec: DataSpec) -> int:
    """How many actions there are. Raises UserError when there is not one discrete action."""
    if not isinstance(spec.actions, Discrete):
        raise UserError(f"module.kind={config.kind!r} needs one discrete action, not {spec.actions!r}.")
    return spec.actions.num
