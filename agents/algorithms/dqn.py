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
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import PositiveFloat, PositiveInt, SerializeAsAny
from torch import Tensor

from agents.algorithms.q_agent import QNetworkAgent, QNetworkConfig
from agents.experience.replay import ReplayExperience
from agents.policies.q_network import QNetwork, QPolicy
from agents.policies.return_distributions import ExpectedConfig, ReturnsConfig
from agents.types import Transition, map_obs
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec
from lab.engine.loss import Loss, Metrics
from lab.engine.tracing import record
from lab.experiment import Shared

_ROWS_IN_CACHE = 256


class DQNConfig(QNetworkConfig):
    """A Q-network and how it learns."""

    kind: Literal["dqn"] = "dqn"
    backbone: BackboneConfig = BackboneConfig("mlp", hidden=(256, 256))
    dueling: bool = False
    """a value and an advantage stream"""
    noisy_sigma: PositiveFloat | None = None
    """the layers after the backbone are noisy, with this initial scale (the papers: 0.5)"""
    returns: SerializeAsAny[ReturnsConfig] = ExpectedConfig()
    batch_size: Annotated[PositiveInt, Shared("equal")] = 64
    updates_per_env_step: PositiveFloat = 0.5
    double: bool = True
    """choose the next action with the online network"""
    loss: Literal["huber", "mse"] = "huber"
    """of expected returns; distributions have their own"""

    def build(self, spec: DataSpec) -> DQN:
        return DQN(self, spec)


class DQNMinibatch(NamedTuple):
    """Steps and their targets."""

    x: Tensor  # (B, ...) prepared observations
    action: Tensor  # (B,)
    target: Tensor  # (B, M)
    weight: Tensor  # (B,)
    noise: Tensor  # (1, num_noise)


class DoubleDQNMinibatch(NamedTuple):
    """Steps whose targets the loss makes, since the network that learns chooses the next action."""

    x: Tensor  # (B, ...) prepared observations
    action: Tensor  # (B,)
    next_x: Tensor  # (B, ...)
    next_outputs: Tensor  # (B, A, M) of the target network
    reward: Tensor  # (B,)
    discount: Tensor  # (B,)
    weight: Tensor  # (B,)
    noise: Tensor  # (1, num_noise)


class DQN(QNetworkAgent[DQNConfig]):
    """Learns from single transitions, all alike or by priority."""

    q_network: QNetwork
    target_network: QNetwork
    policy: QPolicy

    def __init__(self, config: DQNConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.returns = config.returns.build(config.loss)
        self.q_network = QNetwork(
            config.backbone,
            spec,
            self.num_actions,
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

    def loss(self, batch: DQNMinibatch) -> Loss:
        """The extras are the TD errors (B,), from which priorities are made."""
        outputs = select_actions(self.q_network(batch.x, batch.noise), batch.action)  # (B, M)
        losses, td_error = self.returns.loss(outputs, batch.target)
        loss = (batch.weight * losses).mean()
        q_value = self.returns.mean(outputs.detach()).mean()
        return Loss(loss, {"td_loss": loss.detach(), "q_value": q_value}, {"td_error": td_error.detach()})

    def double_loss(self, batch: DoubleDQNMinibatch) -> Loss:
        """The same with the online network's choice of the next action."""
        with torch.no_grad():
            best = self.returns.mean(self.q_network(batch.next_x, batch.noise)).argmax(-1)
            target = self.returns.target(select_actions(batch.next_outputs, best), batch.reward, batch.discount)
        return self.loss(DQNMinibatch(batch.x, batch.action, target, batch.weight, batch.noise))

    def learn_from_replay(self, experience: ReplayExperience, num_updates: int) -> list[Metrics]:
        """All minibatches are drawn at once, unless each update changes their priorities."""
        rows: list[Metrics] = []
        prioritized = experience.config.replay.priority is not None
        while len(rows) < num_updates:
            sample = experience.sample(self.config.batch_size, 1 if prioritized else num_updates, self.progress)
            for part in self._between_target_copies(len(sample.reward)):
                for minibatch in self.minibatches(sample, part):
                    metrics, extras = self.update_with_extras(minibatch)
                    if prioritized:
                        experience.update_priorities(sample.indices[0], extras["td_error"])
                    rows.append(metrics)
        return rows

    @torch.no_grad()
    def minibatches(self, sample: Transition, part: slice) -> Iterator[DQNMinibatch | DoubleDQNMinibatch]:
        """The minibatches of a part of a sample (K, B, ...), which share a target network."""
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
            next_outputs = self._by_target_network(self.target_network, next_x, target_noise)  # (K B, A, M)
            next_x, next_outputs = (t.view(*shape, *t.shape[1:]) for t in (next_x, next_outputs))
            late = (*first, next_x, next_outputs, reward, discount, weight, noise[0])
            return map(DoubleDQNMinibatch, *(t.unbind(0) for t in late))
        target = self._by_target_network(
            self._target, next_x, target_noise, reward.flatten(), discount.flatten()
        )  # (K B, M)
        return map(DQNMinibatch, *(t.unbind(0) for t in (*first, target.view(*shape, -1), weight, noise[0])))

    def _target(self, next_x: Tensor, noise: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """Targets (B, M) by the target network alone."""
        next_outputs = self.target_network(next_x, noise)
        best = self.returns.mean(next_outputs).argmax(-1)
        return self.returns.target(select_actions(next_outputs, best), reward, discount)

    def _by_target_network(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """A function of the target network. For a single minibatch its operators are recorded once and replayed.

        Several minibatches go through it in pieces on a CPU, so that the activations fit into its cache.
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

    def _between_target_copies(self, num_batches: int) -> Iterator[slice]:
        """Stretches of minibatches during which the target network stays as it is."""
        period, first = self.config.target_period, 0
        while first < num_batches:
            stretch = 1 if self.config.target_tau > 0 else period - self.counters["updates"] % period
            yield slice(first, min(first + stretch, num_batches))
            first += stretch


def select_actions(outputs: Tensor, action: Tensor) -> Tensor:
    """The outputs (B, M) of the actions (B,) among outputs (B, A, M)."""
    index = action.view(-1, 1, 1).expand(-1, 1, outputs.shape[-1])
    return outputs.gather(1, index).squeeze(1)
