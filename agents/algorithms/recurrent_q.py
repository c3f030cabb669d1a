"""Recurrent Q-learning for partly observed environments.

DRQN (Hausknecht and Stone 2015) with the burn-in of R2D2 (Kapturowski et al. 2019).

Sequences are drawn from replay; the state before them is not known, so their first steps only warm it up (burn-in).

    y_t = r_t + ... + gamma^(n-1) r_{t+n-1} + gamma^n Q_target(h_{t+n}, argmax_a Q(h_{t+n}, a))
    loss = mean over t >= burn_in of (Q(h_t, a_t) - y_t)^2

n is data.replay.n_step; the windows of a sequence's last steps end with it. Where single observations hide velocities,
only the last action tells how it has just changed them: the network is given it too (Zhu et al. 2017), unless
previous_action is false.

L steps of a sequence (burn-in included), B sequences, A actions, D inputs.
"""

from __future__ import annotations

import copy
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from agents.algorithms.q_agent import QNetworkAgent, QNetworkConfig
from agents.experience.replay import ReplayExperience
from agents.policies.recurrent_q_network import RecurrentQNetwork, RecurrentQPolicy, previous_actions
from agents.returns import TD_LOSSES, n_step_returns, td_target
from agents.types import Rollout, Sequences, map_obs
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec
from lab.engine.loss import Loss, LossFunction, Metrics
from lab.errors import UserError
from lab.experiment import Shared


class RecurrentQConfig(QNetworkConfig):
    """A recurrent Q-network and how it learns."""

    kind: Literal["recurrent_q"] = "recurrent_q"
    backbone: BackboneConfig = BackboneConfig("gru", hidden=64)
    sequence_length: PositiveInt = 20
    """steps that are learned from"""
    burn_in: NonNegativeInt = 10
    """steps before them that only warm the state up"""
    batch_size: Annotated[PositiveInt, Shared("equal")] = 32
    """sequences"""
    updates_per_env_step: PositiveFloat = 0.1
    previous_action: bool = True
    """give the network its last action beside the observation"""
    normalize_obs: bool = False
    """observations minus their running mean, over their deviation: small differences of steps become large ones"""
    loss: Literal["huber", "mse"] = "mse"
    """mse: what rarely happens, such as an episode's end, counts by its size"""

    def build(self, spec: DataSpec) -> RecurrentQ:
        return RecurrentQ(self, spec)


class SequenceMinibatch(NamedTuple):
    """B sequences, and what is learned from their last L - burn_in steps."""

    x: Tensor  # (L + 1, B, D): the successor of the last step included
    start: Tensor  # (L + 1, B)
    action: Tensor  # (L - burn_in, B), as all that follow
    returns: Tensor
    discount: Tensor
    last: Tensor  # the row with which a step's window ends
    usable: Tensor  # 1.0 or 0.0


class RecurrentQ(QNetworkAgent[RecurrentQConfig]):
    """Learns from sequences out of replay."""

    auto_engine: ClassVar[Literal["eager", "traced"]] = "eager"
    q_network: RecurrentQNetwork
    target_network: RecurrentQNetwork
    policy: RecurrentQPolicy

    def __init__(self, config: RecurrentQConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not config.backbone.recurrent:
            raise UserError(f"module.backbone.name={config.backbone.name!r} has no memory. Valid choices: lstm, gru.")
        self.q_network = RecurrentQNetwork(
            config.backbone,
            spec,
            self.num_actions,
            hidden=config.head_hidden,
            previous_action=config.previous_action,
            normalize_obs=config.normalize_obs,
            initial_value=config.initial_value,
        )
        self.target_network = copy.deepcopy(self.q_network).requires_grad_(False)
        self.policy = RecurrentQPolicy(self.q_network, self.num_actions, config.epsilon.hold)
        self.updater = self.add_updater("q_network", self.q_network, self.loss, config.optimizer)

    def set_engine(self, engine: Literal["auto", "eager", "traced"]) -> None:
        """Sequences are cut where episodes start, which cannot be recorded."""
        super().set_engine("eager")

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.datamodule.config.replay.priority is not None:  # type: ignore[attr-defined]
            raise UserError("module.kind='recurrent_q' takes no data.replay.priority.")

    def collect(self, experience: ReplayExperience) -> Rollout:
        rollout = super().collect(experience)
        self.q_network.update_normalizer(rollout)
        return rollout

    def loss(self, batch: SequenceMinibatch) -> Loss:
        q_values = self._unroll(self.q_network, batch.x, batch.start)  # (L - burn_in + 1, B, A)
        with torch.no_grad():
            best = q_values[1:].argmax(-1, keepdim=True)
            next_q = self._unroll(self.target_network, batch.x, batch.start)[1:].gather(-1, best).squeeze(-1)
            target = td_target(batch.returns, batch.discount, next_q.gather(0, batch.last))
        q_value = q_values[:-1].gather(-1, batch.action[..., None]).squeeze(-1)
        losses = TD_LOSSES[self.config.loss](q_value, target, reduction="none")
        loss = (batch.usable * losses).sum() / batch.usable.sum().clamp(min=1.0)
        return Loss(loss, {"td_loss": loss.detach(), "q_value": q_value.detach().mean()})

    def is_ready(self, experience: ReplayExperience) -> bool:
        """Whether there is a whole sequence of each environment, too."""
        return experience.ready and len(experience.buffer) >= self._num_steps * experience.config.num_envs

    def descended(self, name: str) -> LossFunction | None:
        """None with a burn-in, through which no gradient flows."""
        return None if self.config.burn_in else self.loss

    def learn_from_replay(self, experience: ReplayExperience, num_updates: int) -> list[Metrics]:
        rows: list[Metrics] = []
        for _ in range(num_updates):
            sequences = experience.sample_sequences(self.config.batch_size, self._num_steps)
            rows.append(self.update(self.batch(sequences, experience.config.replay.n_step)))
        return rows

    def batch(self, sequences: Sequences, n_step: int) -> SequenceMinibatch:
        """The minibatch of some sequences.

        A step whose window ends at a cut is not used, for the row after it belongs to another episode.
        """
        previous = previous_actions(sequences.action, sequences.start)
        x = self.q_network.prepare(sequences.obs, previous[:-1])
        last_x = self.q_network.prepare(map_obs(sequences.next_obs, lambda t: t[-1:]), previous[-1:])
        start = torch.cat([sequences.start | self._first_steps(sequences), torch.zeros_like(sequences.start[:1])])
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
        return SequenceMinibatch(torch.cat([x, last_x]), start, action, returns, discount, last, usable)

    def _first_steps(self, sequences: Sequences) -> Tensor:
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

    @property
    def _num_steps(self) -> int:
        """L, the burn-in included."""
        return self.config.burn_in + self.config.sequence_length
