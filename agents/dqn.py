"""Deep Q-networks (Mnih et al. 2015), Double Q-learning (van Hasselt et al. 2016), dueling heads (Wang et al. 2016).

    y = r + gamma^n Q_target(s', argmax_a Q(s', a))        loss = huber(Q(s, a) - y)

B batch, K minibatches, A actions, N environments.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from agents.agent import Agent
from agents.experience import ReplayData, ReplayExperience
from agents.policies import Action, Encoder, Policy
from agents.replay import ReplayConfig
from agents.returns import td_target
from agents.types import Obs, Transition, map_obs
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec, Discrete
from lab.errors import UserError
from lab.experiment import Config, Experiment, ModuleConfig, TrainerConfig
from lab.learner import StepMetrics, means
from lab.optim import Metrics, OptimizerConfig


class EpsilonConfig(Config):
    """Linear epsilon-greedy exploration, in environment steps."""

    start: float = Field(default=1.0, ge=0, le=1)
    end: float = Field(default=0.05, ge=0, le=1)
    decay_steps: PositiveInt = 10_000
    """environment steps from start to end"""

    def at(self, env_steps: int) -> float:
        """Epsilon after so many environment steps."""
        return self.start + (self.end - self.start) * min(env_steps / self.decay_steps, 1.0)


class DQNConfig(ModuleConfig):
    """A Q-network and how it learns."""

    kind: Literal["dqn"] = "dqn"
    backbone: BackboneConfig = BackboneConfig("mlp", hidden=(256, 256))
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, max_grad_norm=10.0)
    gamma: float = Field(default=0.99, ge=0, le=1)
    batch_size: PositiveInt = 64
    updates_per_env_step: PositiveFloat = 0.5
    double: bool = True
    """choose the next action with the online network (Double DQN)"""
    dueling: bool = False
    """a value and an advantage stream"""
    target_period: PositiveInt = 100
    """updates between copies to the target network; ignored with target_tau"""
    target_tau: NonNegativeFloat = 0.0
    """if above 0: after each update, move the target network this share of the way (polyak averaging)"""
    loss: Literal["huber", "mse"] = "huber"
    epsilon: EpsilonConfig = EpsilonConfig()

    def build(self, spec: DataSpec) -> DQN:
        return DQN(self, spec)


class QNetwork(nn.Module):
    """Q-values (B, A) of observations."""

    def __init__(self, config: DQNConfig, spec: DataSpec, num_actions: int) -> None:
        super().__init__()
        self.encoder = Encoder(config.backbone, spec.inputs)
        self.advantage = nn.Linear(self.encoder.num_features, num_actions)
        self.value = nn.Linear(self.encoder.num_features, 1) if config.dueling else None

    def forward(self, obs: Obs) -> Tensor:
        return self.q_values(self.encoder.prepare(obs))

    def q_values(self, x: Tensor) -> Tensor:
        """Q-values of prepared observations."""
        features = self.encoder.backbone(x).flatten(1)
        advantage: Tensor = self.advantage(features)
        if self.value is None:
            return advantage
        value: Tensor = self.value(features)
        return value + advantage - advantage.mean(-1, keepdim=True)


class EpsilonGreedy(Policy):
    """Greedy in Q, or with probability epsilon a uniform action."""

    epsilon: Tensor

    def __init__(self, q_network: QNetwork, num_actions: int) -> None:
        super().__init__()
        self.q_network, self.num_actions = q_network, num_actions
        self.register_buffer("epsilon", torch.ones(()))

    def draw_noise(self, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """Uniform (T, N, 2): whether to explore, and where to."""
        return torch.rand(num_steps, num_envs, 2, generator=generator)

    def act(self, obs: Obs, state: Tensor | None = None, noise: Tensor | None = None) -> Action:
        if noise is None:
            return Action(self.q_network(obs).argmax(-1), None, {})
        explore = noise[:, 0] < self.epsilon
        anywhere = (noise[:, 1] * self.num_actions).long()
        if bool(explore.all()):
            return Action(anywhere, None, {})
        return Action(torch.where(explore, anywhere, self.q_network(obs).argmax(-1)), None, {})


class DQN(Agent):
    """Collects into replay, then updates as often as the update ratio owes."""

    config: DQNConfig
    policy: EpsilonGreedy

    def __init__(self, config: DQNConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not isinstance(spec.outputs, Discrete):
            raise UserError(f"module.kind='dqn' needs one discrete action, not {spec.outputs!r}.")
        self.q_network = QNetwork(config, spec, spec.outputs.num)
        self.target_network = copy.deepcopy(self.q_network).requires_grad_(False)
        self.policy = EpsilonGreedy(self.q_network, spec.outputs.num)
        self.updater = self.add_updater("q_network", self.q_network, self.loss, config.optimizer)
        self.updates_owed = 0.0

    def on_fit_start(self) -> None:
        self.trainer.datamodule.open_buffer(self.config.gamma, self.device)  # type: ignore[attr-defined]

    def loss(self, x: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, Metrics]:
        """x (B, ...) prepared observations, action (B,), target (B,)."""
        q_value = self.q_network.q_values(x).gather(1, action[:, None]).squeeze(1)  # (B,)
        loss = F.smooth_l1_loss(q_value, target) if self.config.loss == "huber" else F.mse_loss(q_value, target)
        return loss, {"td_loss": loss.detach(), "q_value": q_value.detach().mean()}

    def training_step(self, experience: ReplayExperience, batch_idx: int = 0) -> StepMetrics:
        rows: list[Metrics] = []
        for _ in range(experience.rounds):
            self.policy.epsilon.fill_(self.config.epsilon.at(self.counters["env_steps"]))
            rollout = experience.collect(self.policy, self.counters["updates"])
            self.counters["env_steps"] += rollout.num_env_steps
            self.counters["episodes"] += len(rollout.episodes)
            if experience.ready:
                self.updates_owed += rollout.num_env_steps * self.config.updates_per_env_step
                num_updates = int(self.updates_owed)
                self.updates_owed -= num_updates
                rows += self.update(experience, num_updates)
        return {**means(rows), **experience.statistics(), "charts/epsilon": float(self.policy.epsilon)}

    def update(self, experience: ReplayExperience, num_updates: int) -> list[Metrics]:
        """Update so many times; minibatches and targets of all updates up to the next target copy come at once."""
        rows = []
        while num_updates > 0:
            num_batches = self._updates_to_target_copy(num_updates)
            batch = experience.sample(self.config.batch_size, num_batches)
            x = self._prepare(batch.obs, num_batches)
            target = self.targets(batch)
            for k in range(num_batches):
                rows.append(self.updater.step(x[k], batch.action[k], target[k]))
                self.counters["updates"] += 1
            self._move_target()
            num_updates -= num_batches
        return rows

    @torch.no_grad()
    def targets(self, batch: Transition) -> Tensor:
        """TD targets (K, B)."""
        shape = batch.reward.shape
        next_x = self.q_network.encoder.prepare(map_obs(batch.next_obs, lambda t: t.flatten(0, 1)))
        next_q = self.target_network.q_values(next_x)  # (K B, A)
        chooser = self.q_network.q_values(next_x) if self.config.double else next_q
        next_value = next_q.gather(1, chooser.argmax(1, keepdim=True)).view(shape)
        return td_target(batch.reward, batch.discount, next_value)

    def _prepare(self, obs: Obs, num_batches: int) -> Tensor:
        x = self.q_network.encoder.prepare(map_obs(obs, lambda t: t.flatten(0, 1)))
        return x.view(num_batches, -1, *x.shape[1:])

    def _updates_to_target_copy(self, num_updates: int) -> int:
        if self.config.target_tau > 0 or self.config.double:
            return 1  # targets change with every update
        period = self.config.target_period
        return min(num_updates, period - self.counters["updates"] % period)

    @torch.no_grad()
    def _move_target(self) -> None:
        if self.config.target_tau > 0:
            for target, online in zip(self.target_network.parameters(), self.q_network.parameters(), strict=True):
                target.lerp_(online, self.config.target_tau)
        elif self.counters["updates"] % self.config.target_period == 0:
            self.target_network.load_state_dict(self.q_network.state_dict())

    def train_state(self) -> dict[str, Any]:
        return super().train_state() | {"updates_owed": self.updates_owed}

    def load_train_state(self, state: dict[str, Any]) -> None:
        super().load_train_state(state)
        self.updates_owed = state["updates_owed"]


def cartpole() -> Experiment:
    """DQN on CartPole-v1."""
    return Experiment(
        name="dqn/cartpole",
        data=ReplayData(
            env="CartPole-v1",
            num_steps=256,
            learning_starts=1_000,
            replay=ReplayConfig(capacity=100_000),
        ),
        module=DQNConfig(
            backbone=BackboneConfig("mlp", hidden=(256, 256)),
            optimizer=OptimizerConfig(lr=2.3e-3, max_grad_norm=10.0),
            updates_per_env_step=0.5,
            double=False,
            target_period=128,
            epsilon=EpsilonConfig(end=0.04, decay_steps=8_000),
        ),
        trainer=TrainerConfig(budget=50_000, eval_period=2_000),
    )
