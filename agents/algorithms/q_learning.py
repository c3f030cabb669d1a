"""Tabular Q-learning (Watkins 1989): a table of values, updated after every step.

    Q(s, a) <- Q(s, a) + alpha (r + gamma max_a' Q(s', a') - Q(s, a))

T time steps, N environments, S states, A actions.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from agents.algorithms.q_agent import QAgent, QConfig
from agents.experience.data import OnPolicyExperience
from agents.policies.exploration import EpsilonGreedyPolicy, epsilon_greedy
from agents.policies.policy import Action, Preferences
from agents.returns import td_target
from agents.types import Obs, Rollout
from lab.data.spec import DataSpec, TensorSpec
from lab.engine.loss import Metrics
from lab.engine.optimizers import ScheduleConfig, of_progress
from lab.errors import UserError


class QLearningConfig(QConfig):
    """A table and how it learns."""

    kind: Literal["q_learning"] = "q_learning"
    alpha: float = Field(default=0.1, gt=0, le=1)
    """share of the way to the target that one step goes"""
    alpha_schedule: Annotated[ScheduleConfig, of_progress] = ScheduleConfig()

    def build(self, spec: DataSpec) -> QLearning:
        return QLearning(self, spec)


class TablePolicy(EpsilonGreedyPolicy):
    """Epsilon-greedy in a table (S, A)."""

    def __init__(self, num_states: int, num_actions: int, hold: int = 1) -> None:
        super().__init__(hold)
        self.table = nn.Parameter(torch.zeros(num_states, num_actions), requires_grad=False)

    def draw_noise(self, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """Uniform (T, N, 2 + A): two numbers for exploration, the others order the actions whose values are equal."""
        explore = super().draw_noise(num_steps, num_envs, generator)
        return torch.cat([explore, torch.rand(num_steps, num_envs, self.table.shape[1], generator=generator)], -1)

    def act(self, obs: Obs, state: Tensor | None = None, noise: Tensor | None = None) -> Action:
        assert isinstance(obs, Tensor)
        q_values = self.table[obs]
        if noise is None:
            return Action(q_values.argmax(-1), None, {})
        best = q_values == q_values.max(-1, keepdim=True).values
        greedy = (best * (1 + noise[:, 2:])).argmax(-1)  # in a new state any action, not always the first
        return Action(epsilon_greedy(greedy, self.epsilon, q_values.shape[1], noise), None, {})

    def preferences(self, obs: Obs, state: Tensor | None = None) -> Preferences:
        assert isinstance(obs, Tensor)
        return Preferences("Q-value", self.table[obs])


class QLearning(QAgent[QLearningConfig]):
    """Learns from each step of a rollout in turn."""

    policy: TablePolicy

    def __init__(self, config: QLearningConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not isinstance(spec.inputs, TensorSpec) or spec.inputs.dtype != torch.int64 or spec.inputs.shape != ():
            raise UserError(
                f"module.kind={config.kind!r} needs numbered states (FrozenLake-v1, Taxi-v3), not {spec.inputs}."
            )
        self.policy = TablePolicy(int(spec.inputs.high) + 1, self.num_actions, config.epsilon.hold)

    def learn(self, rollout: Rollout, experience: OnPolicyExperience) -> list[Metrics]:
        return [self.update(rollout)]

    @torch.no_grad()
    def update(self, batch: Rollout) -> Metrics:
        """One update for each step of a rollout, in order; returns the mean absolute TD error.

        Environments side by side are updated at once, each from the table as it was before the step.
        """
        device = self.policy.table.device
        assert isinstance(batch.obs, Tensor)
        assert isinstance(batch.next_obs, Tensor)
        alpha = self.config.alpha * self.config.alpha_schedule.factor(self.progress)
        table = self.policy.table.view(-1)
        entry = (batch.obs * self.num_actions + batch.action).to(device)
        discount = self.config.gamma * (~batch.terminated).float().to(device)
        next_obs, reward, valid = (t.to(device) for t in (batch.next_obs, batch.reward, batch.valid))
        td_error = torch.zeros_like(reward)
        for t in range(len(reward)):
            target = td_target(reward[t], discount[t], self.policy.table[next_obs[t]].amax(-1))
            td_error[t] = (target - table[entry[t]]) * valid[t]
            table.index_add_(0, entry[t], td_error[t], alpha=alpha)
        self.counters["updates"] += int(valid.sum())
        return {"td_error": td_error.abs().mean()}
