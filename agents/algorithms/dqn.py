"""Deep Q-networks (Mnih et al. 2015) and what was added to them, each a switch; all at once they are Rainbow.

    y = r + gamma^n Q_target(s', argmax_a Q(s', a))        loss = huber(Q(s, a) - y)

    double               the online network chooses the next action (van Hasselt et al. 2016)
    dueling              a value and an advantage stream (Wang et al. 2016)
    noisy_sigma          noisy layers explore instead of epsilon (Fortunato et al. 2018)
    returns              expected values, C51 (Bellemare et al. 2017) or quantiles (Dabney et al. 2018)
    data.replay.n_step   n-step returns (Sutton 1988)
    data.replay.priority prioritized replay (Schaul et al. 2016)

B batch, K minibatches, A actions, M numbers for each action's return, N environments.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, SerializeAsAny
from torch import Tensor

from agents.algorithms.agent import Agent
from agents.experience.data import ReplayExperience
from agents.policies.exploration import EpsilonConfig, EpsilonGreedyActor, epsilon_greedy, exploration_noise
from agents.policies.numpy_mlp import Actor, ArrayMLP
from agents.policies.policy import Action, Policy, Preferences
from agents.policies.q_network import QNetwork, move_target
from agents.policies.return_distributions import ExpectedConfig, Returns, ReturnsConfig
from agents.types import Obs, Transition, map_obs
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec, Discrete
from lab.engine.loss import Loss, Metrics
from lab.engine.optimizers import OptimizerConfig
from lab.engine.tracing import record
from lab.errors import UserError
from lab.experiment import ModuleConfig
from lab.ranks import collectives
from lab.training.learner import StepMetrics, means

_ROWS_IN_CACHE = 256


class DQNConfig(ModuleConfig):
    """A Q-network and how it learns."""

    kind: Literal["dqn"] = "dqn"
    backbone: BackboneConfig = BackboneConfig("mlp", hidden=(256, 256))
    head_hidden: tuple[PositiveInt, ...] = ()
    """hidden layers of each stream after the backbone"""
    dueling: bool = False
    """a value and an advantage stream"""
    noisy_sigma: PositiveFloat | None = None
    """the streams' layers are noisy, with this initial scale (the papers: 0.5)"""
    returns: SerializeAsAny[ReturnsConfig] = ExpectedConfig()
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, max_grad_norm=10.0)
    gamma: float = Field(default=0.99, ge=0, le=1)
    batch_size: PositiveInt = 64
    updates_per_env_step: PositiveFloat = 0.5
    initial_value: float = 0.0
    """what all values start at; the highest possible return is optimism (Sutton and Barto 2018, section 2.6)"""
    double: bool = True
    """choose the next action with the online network"""
    target_period: PositiveInt = 100
    """updates between copies to the target network; ignored with target_tau"""
    target_tau: NonNegativeFloat = 0.0
    """if above 0: after each update, move the target network this share of the way (polyak averaging)"""
    loss: Literal["huber", "mse"] = "huber"
    """of expected returns; distributions have their own"""
    epsilon: EpsilonConfig = EpsilonConfig()

    def build(self, spec: DataSpec) -> DQN:
        return DQN(self, spec)


class QPolicy(Policy):
    """Greedy in the expected return, or with probability epsilon a uniform action; with noise in noisy layers."""

    epsilon: Tensor

    def __init__(self, q_network: QNetwork, returns: Returns, hold: int = 1) -> None:
        super().__init__()
        self.q_network, self.returns, self.hold = q_network, returns, hold
        self._in_arrays: ArrayMLP | None = None
        self.register_buffer("epsilon", torch.ones(()))

    def draw_noise(self, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """(T, N, 2 + num_noise): uniform, whether to explore and where to; then normal, for noisy layers."""
        uniform = exploration_noise(num_steps, num_envs, self.hold, generator)
        if not self.q_network.num_noise:
            return uniform
        return torch.cat([uniform, torch.randn(num_steps, num_envs, self.q_network.num_noise, generator=generator)], -1)

    def act(self, obs: Obs, state: Tensor | None = None, noise: Tensor | None = None) -> Action:
        if noise is not None and bool((noise[:, 0] < self.epsilon).all()):  # all explore: nobody needs values
            return Action((noise[:, 1] * self.q_network.num_actions).long(), None, {})
        outputs = self.q_network(self.q_network.prepare(obs), None if noise is None else noise[:, 2:])
        greedy = self.returns.mean(outputs).argmax(-1)
        if noise is None:
            return Action(greedy, None, {})
        return Action(epsilon_greedy(greedy, self.epsilon, self.q_network.num_actions, noise), None, {})

    def array_actor(self, noise: Tensor) -> Actor | None:
        """Advantages order actions as their values do, where each is one number."""
        network, num_envs = self._in_arrays, noise.shape[1]
        if network is None or network.num_rows != num_envs or not network.is_in_step():
            network = self._in_arrays = self.q_network.in_arrays(num_envs) if self.returns.size == 1 else None
        if network is None:
            return None
        return EpsilonGreedyActor(network, float(self.epsilon), self.q_network.num_actions, noise)

    def preferences(self, obs: Obs, state: Tensor | None = None) -> Preferences:
        return Preferences("Q-value", self.returns.mean(self.q_network(self.q_network.prepare(obs))))


class Minibatch(NamedTuple):
    """Steps and their targets."""

    x: Tensor  # (B, ...) prepared observations
    action: Tensor  # (B,)
    target: Tensor  # (B, M)
    weight: Tensor  # (B,)
    noise: Tensor  # (1, num_noise)


class DoubleMinibatch(NamedTuple):
    """Steps whose targets are made late, since the network that learns chooses the next action."""

    x: Tensor  # (B, ...) prepared observations
    action: Tensor  # (B,)
    next_x: Tensor  # (B, ...)
    next_outputs: Tensor  # (B, A, M) of the target network
    reward: Tensor  # (B,)
    discount: Tensor  # (B,)
    weight: Tensor  # (B,)
    noise: Tensor  # (1, num_noise)


class DQN(Agent):
    """Collects into replay, then updates as often as the update ratio owes."""

    config: DQNConfig
    policy: QPolicy

    def __init__(self, config: DQNConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        num_actions = discrete_actions(config, spec)
        self.returns = config.returns.build(config.loss)
        self.q_network = QNetwork(
            config.backbone,
            spec,
            num_actions,
            self.returns.size,
            dueling=config.dueling,
            hidden=config.head_hidden,
            sigma=config.noisy_sigma,
            initial_value=config.initial_value,
        )
        self.target_network = copy.deepcopy(self.q_network).requires_grad_(False)
        self.policy = QPolicy(self.q_network, self.returns, config.epsilon.hold)
        self.updater = self.add_updater(
            "q_network", self.q_network, self.double_loss if config.double else self.loss, config.optimizer
        )
        self._target_graph: Callable[[Sequence[Tensor]], list[Tensor]] | None = None
        self.updates_owed = 0.0
        self.progress = 0.0

    def on_fit_start(self) -> None:
        open_replay(self, self.config.gamma)

    def set_progress(self, progress: float) -> None:
        super().set_progress(progress)
        self.progress = progress

    def training_step(self, experience: ReplayExperience, batch_idx: int = 0) -> StepMetrics:
        rows: list[Metrics] = []
        for _ in range(experience.rounds):
            self.policy.epsilon.fill_(self.config.epsilon.at(self.counters["env_steps"]))
            rollout = experience.collect(self.policy, self.counters["updates"])
            self.counters["env_steps"] += rollout.num_env_steps
            self.counters["episodes"] += len(rollout.episodes)
            if experience.ready:
                self.updates_owed += collectives.total(rollout.num_env_steps) * self.config.updates_per_env_step
                num_updates = int(self.updates_owed)
                self.updates_owed -= num_updates
                rows += self.learn(experience, num_updates)
        return {**means(rows), **experience.statistics(), "charts/epsilon": float(self.policy.epsilon)}

    def learn(self, experience: ReplayExperience, num_updates: int) -> list[Metrics]:
        """Update so many times. All minibatches are drawn at once, unless each update changes their priorities."""
        rows: list[Metrics] = []
        prioritized = experience.config.replay.priority is not None
        while len(rows) < num_updates:
            sample = experience.sample(self.config.batch_size, 1 if prioritized else num_updates, self.progress)
            for part in self._between_target_copies(sample.reward.shape[0]):
                for minibatch in self.minibatches(sample, part):
                    metrics, extras = self.updater.step(minibatch)
                    if prioritized:
                        experience.update_priorities(sample.indices[0], extras["td_error"])
                    rows.append(metrics)
                    self.counters["updates"] += 1
                move_target(
                    self.target_network,
                    self.q_network,
                    self.counters["updates"],
                    period=self.config.target_period,
                    tau=self.config.target_tau,
                )
        return rows

    @torch.no_grad()
    def minibatches(self, sample: Transition, part: slice) -> Iterator[Minibatch | DoubleMinibatch]:
        """The minibatches of a part of a sample, which share a target network."""
        reward, discount, weight = (t[part] for t in (sample.reward, sample.discount, sample.weight))
        shape = reward.shape
        x, next_x = (
            self.q_network.prepare(map_obs(obs, lambda t: t[part].flatten(0, 1)))
            for obs in (sample.obs, sample.next_obs)
        )
        noise = torch.randn(2, *shape[:1], 1, self.q_network.num_noise, device=reward.device)  # (2, K, 1, num_noise)
        target_noise = noise[1].expand(*shape, -1).flatten(0, 1)  # one noise a minibatch
        first = (x.view(*shape, *x.shape[1:]), sample.action[part])
        if self.config.double:
            next_outputs = self._recorded(self.target_network, next_x, target_noise)  # (K B, A, M)
            next_x, next_outputs = (t.view(*shape, *t.shape[1:]) for t in (next_x, next_outputs))
            double = (*first, next_x, next_outputs, reward, discount, weight, noise[0])
            return map(DoubleMinibatch, *(t.unbind(0) for t in double))
        target = self._recorded(self._target, next_x, target_noise, reward.flatten(), discount.flatten())  # (K B, M)
        return map(Minibatch, *(t.unbind(0) for t in (*first, target.view(*shape, -1), weight, noise[0])))

    def _target(self, next_x: Tensor, noise: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """Targets (B, M) by the target network alone."""
        next_outputs = self.target_network(next_x, noise)
        best = self.returns.mean(next_outputs).argmax(-1)
        return self.returns.target(chosen(next_outputs, best), reward, discount)

    def _recorded(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """A function of the target network; for a single minibatch its operators are recorded once and replayed.

        Many go through it piece by piece on a CPU, whose cache then holds what the layers hand on.
        """
        if self.updater.engine != "traced" or len(inputs[0]) != self.config.batch_size:
            if inputs[0].device.type == "cpu" and len(inputs[0]) > _ROWS_IN_CACHE:
                pieces = zip(*(t.split(_ROWS_IN_CACHE) for t in inputs), strict=True)
                return torch.cat([function(*piece) for piece in pieces])
            return function(*inputs)
        if self._target_graph is None:
            names = [name for name, _ in self.target_network.named_parameters()]
            self._target_graph = record(
                self.target_network, names, lambda _, *inputs: [function(*inputs).detach()], inputs
            )
        return self._target_graph(inputs)[0]

    def loss(self, batch: Minibatch) -> Loss:
        """The extras are the TD errors (B,), from which priorities are made."""
        outputs = chosen(self.q_network(batch.x, batch.noise), batch.action)  # (B, M)
        losses, error = self.returns.loss(outputs, batch.target)
        loss = (batch.weight * losses).mean()
        q_value = self.returns.mean(outputs.detach()).mean()
        return Loss(loss, {"td_loss": loss.detach(), "q_value": q_value}, {"td_error": error.detach()})

    def double_loss(self, batch: DoubleMinibatch) -> Loss:
        """The same with the online network's choice of the next action."""
        with torch.no_grad():
            best = self.returns.mean(self.q_network(batch.next_x, batch.noise)).argmax(-1)
            target = self.returns.target(chosen(batch.next_outputs, best), batch.reward, batch.discount)
        return self.loss(Minibatch(batch.x, batch.action, target, batch.weight, batch.noise))

    def _between_target_copies(self, num_batches: int) -> Iterator[slice]:
        """Stretches of minibatches during which the target network stays as it is."""
        period, first = self.config.target_period, 0
        while first < num_batches:
            stretch = 1 if self.config.target_tau > 0 else period - self.counters["updates"] % period
            yield slice(first, min(first + stretch, num_batches))
            first += stretch

    def train_state(self) -> dict[str, Any]:
        return super().train_state() | {"updates_owed": self.updates_owed}

    def load_train_state(self, state: dict[str, Any]) -> None:
        super().load_train_state(state)
        self.updates_owed = state["updates_owed"]


def chosen(outputs: Tensor, action: Tensor) -> Tensor:
    """The outputs (B, M) of the actions (B,) among outputs (B, A, M)."""
    index = action.view(-1, 1, 1).expand(-1, 1, outputs.shape[-1])
    return outputs.gather(1, index).squeeze(1)


def discrete_actions(config: ModuleConfig, spec: DataSpec) -> int:
    """How many actions there are. Raises UserError when there is not one discrete action."""
    if not isinstance(spec.outputs, Discrete):
        raise UserError(f"module.kind={config.kind!r} needs one discrete action, not {spec.outputs!r}.")
    return spec.outputs.num


def open_replay(agent: Agent, gamma: float) -> ReplayExperience:
    """Open the replay buffer of the agent's data, and return that. Raises UserError when it is no replay."""
    data = agent.trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, ReplayExperience):
        raise UserError(f"module.kind={agent.config.kind!r} learns from replay: data.kind must be 'replay'.")
    data.open_buffer(gamma, agent.device)
    return data
