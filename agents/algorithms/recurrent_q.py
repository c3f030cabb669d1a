"""Recurrent Q-learning for partly observed environments.

DRQN (Hausknecht and Stone 2015) with the burn-in of R2D2 (Kapturowski et al. 2019).

Sequences are drawn from replay; the state before them is not known, so their first steps only warm it up (burn-in).

    y_t = r_t + ... + gamma^(n-1) r_{t+n-1} + gamma^n Q_target(h_{t+n}, argmax_a Q(h_{t+n}, a))
    loss = mean over t >= burn_in of (Q(h_t, a_t) - y_t)^2

n is data.replay.n_step; the windows of a sequence's last steps end with it. Where single observations hide velocities,
only the last action tells how it has just changed them: the network is given it too (Zhu et al. 2017), unless
previous_action is false.

L steps of a sequence (burn-in included), B sequences, A actions, D inputs, F features, S rows of a recurrent state.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from agents.algorithms.agent import Agent
from agents.algorithms.dqn import discrete_actions, open_replay
from agents.experience.data import ReplayExperience
from agents.policies.exploration import EpsilonConfig, epsilon_greedy, exploration_noise
from agents.policies.normalization import ObsNormalizer
from agents.policies.policy import Action, Encoder, Policy, Preferences
from agents.policies.q_network import Stream, move_target
from agents.returns import TD_LOSSES, n_step_returns, td_target
from agents.types import Obs, Rollout, Sequences, map_obs
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec, TensorSpec
from lab.engine.loss import Loss, Metrics
from lab.engine.optimizers import OptimizerConfig
from lab.errors import UserError
from lab.experiment import ModuleConfig
from lab.ranks import collectives
from lab.training.learner import StepMetrics, means

_OBSERVATION, _PREVIOUS = "observation", "previous action"
"""names of the network's inputs"""


class RecurrentQConfig(ModuleConfig):
    """A recurrent Q-network and how it learns."""

    kind: Literal["recurrent_q"] = "recurrent_q"
    backbone: BackboneConfig = BackboneConfig("gru", hidden=64)
    head_hidden: tuple[PositiveInt, ...] = ()
    """hidden layers after the backbone"""
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, max_grad_norm=10.0)
    gamma: float = Field(default=0.99, ge=0, le=1)
    sequence_length: PositiveInt = 20
    """steps that are learned from"""
    burn_in: NonNegativeInt = 10
    """steps before them that only warm the state up"""
    batch_size: PositiveInt = 32
    """sequences"""
    updates_per_env_step: PositiveFloat = 0.1
    previous_action: bool = True
    """give the network its last action beside the observation"""
    normalize_obs: bool = False
    """observations minus their running mean, over their deviation: small differences of steps become large ones"""
    initial_value: float = 0.0
    """what all values start at; the highest possible return is optimism (Sutton and Barto 2018, section 2.6)"""
    target_period: PositiveInt = 100
    """updates between copies to the target network; ignored with target_tau"""
    target_tau: NonNegativeFloat = 0.0
    """if above 0: after each update, move the target network this share of the way (polyak averaging)"""
    loss: Literal["huber", "mse"] = "mse"
    """mse: what rarely happens, such as an episode's end, counts by its size"""
    epsilon: EpsilonConfig = EpsilonConfig()

    def build(self, spec: DataSpec) -> RecurrentQ:
        return RecurrentQ(self, spec)


class RecurrentQNetwork(nn.Module):
    """Q-values (L, B, A) of sequences. What it takes as an observation may include the action before it."""

    def __init__(self, config: RecurrentQConfig, spec: DataSpec, num_actions: int) -> None:
        super().__init__()
        inputs = spec.inputs
        if config.previous_action:
            inputs = inputs if isinstance(inputs, dict) else {_OBSERVATION: inputs}
            inputs = inputs | {_PREVIOUS: TensorSpec((), torch.int64, 0, num_actions)}  # 0 is none
        self.previous_action = config.previous_action
        self.encoder = Encoder(config.backbone, inputs)
        self.normalizer = ObsNormalizer(self.encoder.backbone.input_shape) if config.normalize_obs else None
        self.head = Stream([self.encoder.num_features, *config.head_hidden, num_actions], None)
        self.head.shift(config.initial_value)

    def forward(self, x: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Prepared x (L, B, D), state (S, B, F) before them, episode starts (L, B) -> Q (L, B, A), state after."""
        features, state = self.encoder.backbone(x, state, start)
        return self.head(features, None), state

    def prepare(self, obs: Obs, previous: Tensor) -> Tensor:
        """Observations (L, B, ...) and 1 + the actions before them (L, B), 0 for none, as the one tensor (L, B, D)."""
        x = self._flat(obs, previous)
        return x if self.normalizer is None else self.normalizer(x)

    def take_in(self, rollout: Rollout) -> None:
        """Let the running normalisation see a rollout's observations."""
        if self.normalizer is not None:
            previous = previous_actions(rollout.action, rollout.start)[:-1]
            self.normalizer.update(self._flat(rollout.obs, previous)[rollout.valid])

    def _flat(self, obs: Obs, previous: Tensor) -> Tensor:
        if self.previous_action:
            obs = {**(obs if isinstance(obs, dict) else {_OBSERVATION: obs}), _PREVIOUS: previous}
        return self.encoder.prepare(obs, leading=2).flatten(2)


def previous_actions(action: Tensor, start: Tensor) -> Tensor:
    """1 + the actions (L + 1, B) before each step and after the last; 0 where an episode starts or it is not known."""
    previous = torch.cat([torch.zeros_like(action[:1]), action + 1])
    previous[:-1].masked_fill_(start, 0)
    return previous


class RecurrentQPolicy(Policy):
    """Epsilon-greedy in Q with a memory: the backbone's state, and a last row with 1 + the last action."""

    recurrent = True
    epsilon: Tensor

    def __init__(self, q_network: RecurrentQNetwork, num_actions: int, hold: int = 1) -> None:
        super().__init__()
        self.q_network, self.num_actions, self.hold = q_network, num_actions, hold
        self.register_buffer("epsilon", torch.ones(()))

    def initial_state(self, num_envs: int) -> Tensor:
        state = self.q_network.encoder.backbone.initial_state(num_envs)
        return torch.cat([state, torch.zeros_like(state[:1])])

    def draw_noise(self, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """Uniform (T, N, 2): whether to explore, and where to."""
        return exploration_noise(num_steps, num_envs, self.hold, generator)

    def act(self, obs: Obs, state: Tensor | None = None, noise: Tensor | None = None) -> Action:
        q_values, state = self._q_values(obs, state)
        action = q_values.argmax(-1)
        if noise is not None:
            action = epsilon_greedy(action, self.epsilon, self.num_actions, noise)
        row = (action + 1).to(state.dtype)[None, :, None].expand_as(state[:1])
        return Action(action, torch.cat([state, row]), {})

    def preferences(self, obs: Obs, state: Tensor | None = None) -> Preferences:
        return Preferences("Q-value", self._q_values(obs, state)[0])

    def _q_values(self, obs: Obs, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Q (N, A) and the backbone's state after."""
        assert state is not None
        start = torch.zeros(1, state.shape[1], dtype=torch.bool, device=state.device)
        x = self.q_network.prepare(map_obs(obs, lambda t: t[None]), state[-1:, :, 0].long())
        q_values, state = self.q_network(x, state[:-1], start)
        return q_values[0], state


class Minibatch(NamedTuple):
    """B sequences: x (L + 1, B, D) and start (L + 1, B) with the successor of the last step, the others
    (L - burn_in, B), of the steps that are learned from."""

    x: Tensor
    start: Tensor
    action: Tensor
    returns: Tensor
    discount: Tensor
    last: Tensor  # the row with which a step's window ends
    usable: Tensor  # 1.0 or 0.0


class RecurrentQ(Agent):
    """Collects into replay and learns from sequences of it."""

    auto_engine: ClassVar[Literal["eager", "traced"]] = "eager"
    config: RecurrentQConfig
    policy: RecurrentQPolicy

    def __init__(self, config: RecurrentQConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        num_actions = discrete_actions(config, spec)
        if not config.backbone.recurrent:
            raise UserError(f"module.backbone.name={config.backbone.name!r} has no memory. Valid choices: lstm, gru.")
        self.q_network = RecurrentQNetwork(config, spec, num_actions)
        self.target_network = copy.deepcopy(self.q_network).requires_grad_(False)
        self.policy = RecurrentQPolicy(self.q_network, num_actions, config.epsilon.hold)
        self.updater = self.add_updater("q_network", self.q_network, self.loss, config.optimizer)
        self.updates_owed = 0.0

    def set_engine(self, engine: Literal["auto", "eager", "traced"]) -> None:
        """Sequences are cut where episodes start, which cannot be recorded."""
        super().set_engine("eager")

    def on_fit_start(self) -> None:
        replay = open_replay(self, self.config.gamma).config.replay
        if replay.priority is not None:
            raise UserError("module.kind='recurrent_q' takes no data.replay.priority.")

    def training_step(self, experience: ReplayExperience, batch_idx: int = 0) -> StepMetrics:
        rows: list[Metrics] = []
        length = self.config.burn_in + self.config.sequence_length
        for _ in range(experience.rounds):
            self.policy.epsilon.fill_(self.config.epsilon.at(self.counters["env_steps"]))
            rollout = experience.collect(self.policy, self.counters["updates"])
            self.counters["env_steps"] += rollout.num_env_steps
            self.counters["episodes"] += len(rollout.episodes)
            self.q_network.take_in(rollout)
            if not experience.ready or len(experience.buffer) < length * experience.config.num_envs:
                continue
            self.updates_owed += collectives.total(rollout.num_env_steps) * self.config.updates_per_env_step
            while self.updates_owed >= 1:
                self.updates_owed -= 1
                sequences = experience.sample_sequences(self.config.batch_size, length)
                rows.append(self._update(sequences, experience.config.replay.n_step))
        return {**means(rows), **experience.statistics(), "charts/epsilon": float(self.policy.epsilon)}

    def loss(self, batch: Minibatch) -> Loss:
        x, start, action, returns, discount, last, usable = batch
        q_values = self._unroll(self.q_network, x, start)  # (L - burn_in + 1, B, A)
        with torch.no_grad():
            best = q_values[1:].argmax(-1, keepdim=True)
            next_q = self._unroll(self.target_network, x, start)[1:].gather(-1, best).squeeze(-1)
            target = td_target(returns, discount, next_q.gather(0, last))
        q_value = q_values[:-1].gather(-1, action[..., None]).squeeze(-1)
        error = TD_LOSSES[self.config.loss](q_value, target, reduction="none")
        loss = (usable * error).sum() / usable.sum().clamp(min=1.0)
        return Loss(loss, {"td_loss": loss.detach(), "q_value": q_value.detach().mean()})

    def batch(self, sequences: Sequences, n_step: int) -> Minibatch:
        """What the loss takes. A step whose window ends at a cut is not used: the row after it is another episode's."""
        previous = previous_actions(sequences.action, sequences.start)
        x = self.q_network.prepare(sequences.obs, previous[:-1])
        last_x = self.q_network.prepare(map_obs(sequences.next_obs, lambda t: t[-1:]), previous[-1:])
        start = torch.cat([sequences.start | self._begin(sequences), torch.zeros_like(sequences.start[:1])])
        action, reward, terminated, truncated, valid = (
            t[self.config.burn_in :]
            for t in (sequences.action, sequences.reward, sequences.terminated, sequences.truncated, sequences.valid)
        )
        ends = truncated.clone()
        ends[-1] = True  # the sequence's end, after which its windows are padded
        reward, terminated, ends = (
            torch.cat([t, t.new_zeros(n_step - 1, *t.shape[1:])]) for t in (reward, terminated, ends)
        )
        returns, discount, steps = n_step_returns(reward, terminated, ends, self.config.gamma, n_step)
        last = torch.arange(len(steps), device=steps.device)[:, None] + steps  # the row with which a window ends
        usable = (valid & ~truncated.gather(0, last)).float()
        return Minibatch(torch.cat([x, last_x]), start, action, returns, discount, last, usable)

    def _begin(self, sequences: Sequences) -> Tensor:
        """Where (L, B) memories begin: somewhere in the first half of the burn-in.

        Were it always at the first step, a network could tell steps by how long it remembers; and the last one, which
        only ever gives targets, would be learned at no such age: nothing holds its value down.
        """
        first = torch.randint(self.config.burn_in // 2 + 1, sequences.reward.shape[1:], device=sequences.reward.device)
        return torch.arange(len(sequences.reward), device=first.device)[:, None] == first

    def _unroll(self, network: RecurrentQNetwork, x: Tensor, start: Tensor) -> Tensor:
        """Q-values (L - burn_in + 1, B, A) after the burn-in, through which no gradient flows."""
        state, burn_in = network.encoder.backbone.initial_state(start.shape[1]), self.config.burn_in
        if burn_in:
            with torch.no_grad():
                _, state = network(x[:burn_in], state, start[:burn_in])
        q_values: Tensor = network(x[burn_in:], state, start[burn_in:])[0]
        return q_values

    def _update(self, sequences: Sequences, n_step: int) -> Metrics:
        metrics = self.update(self.batch(sequences, n_step))
        self.counters["updates"] += 1
        move_target(
            self.target_network,
            self.q_network,
            self.counters["updates"],
            period=self.config.target_period,
            tau=self.config.target_tau,
        )
        return metrics

    def train_state(self) -> dict[str, Any]:
        return super().train_state() | {"updates_owed": self.updates_owed}

    def load_train_state(self, state: dict[str, Any]) -> None:
        super().load_train_state(state)
        self.updates_owed = state["updates_owed"]
