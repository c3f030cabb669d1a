"""Tabular Q-learning (Watkins 1989): a table of values, updated after every step.

    Q(s, a) <- Q(s, a) + alpha (r + gamma max_a' Q(s', a') - Q(s, a))

T time steps, N environments, S states, A actions.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from agents.algorithms.agent import Agent
from agents.algorithms.dqn import discrete_actions
from agents.experience.data import OnPolicyExperience
from agents.policies.exploration import EpsilonConfig, epsilon_greedy, exploration_noise
from agents.policies.policy import Action, Policy, Preferences
from agents.returns import td_target
from agents.types import Obs, Rollout
from lab.data.spec import DataSpec, TensorSpec
from lab.engine.optimizers import ScheduleConfig
from lab.errors import UserError
from lab.experiment import ModuleConfig
from lab.training.learner import StepMetrics


class QLearningConfig(ModuleConfig):
    """A table and how it learns."""

    kind: Literal["q_learning"] = "q_learning"
    alpha: float = Field(default=0.1, gt=0, le=1)
    """share of the way to the target that one step goes"""
    alpha_schedule: ScheduleConfig = ScheduleConfig()
    gamma: float = Field(default=0.99, ge=0, le=1)
    epsilon: EpsilonConfig = EpsilonConfig()

    def build(self, spec: DataSpec) -> QLearning:
        return QLearning(self, spec)


class TablePolicy(Policy):
    """Epsilon-greedy in a table (S, A)."""

    epsilon: Tensor

    def __init__(self, num_states: int, num_actions: int, hold: int = 1) -> None:
        super().__init__()
        self.hold = hold
        self.table = nn.Parameter(torch.zeros(num_states, num_actions), requires_grad=False)
        self.register_buffer("epsilon", torch.ones(()))

    def draw_noise(self, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """Uniform (T, N, 2): whether to explore and where to; and which of the best actions to take (T, N, A)."""
        explore = exploration_noise(num_steps, num_envs, self.hold, generator)
        return torch.cat([explore, torch.rand(num_steps, num_envs, self.table.shape[1], generator=generator)], -1)

    def act(self, obs: Obs, state: Tensor | None = None, noise: Tensor | None = None) -> Action:
        assert isinstance(obs, Tensor)
        q_values = self.table[obs]
        if noise is None:
            return Action(q_values.argmax(-1), None, {})
        best = q_values == q_values.max(-1, keepdim=True).values
        greedy = (best * (1 + noise[:, 2:])).argmax(-1)  # untouched states: any action, not always the first
        return Action(epsilon_greedy(greedy, self.epsilon, q_values.shape[1], noise), None, {})

    def preferences(self, obs: Obs, state: Tensor | None = None) -> Preferences:
        assert isinstance(obs, Tensor)
        return Preferences("Q-value", self.table[obs])


class QLearning(Agent):
    """Learns from each step of a rollout in turn."""

    config: QLearningConfig
    policy: TablePolicy

    def __init__(self, config: QLearningConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        num_actions = discrete_actions(config, spec)
        if not isinstance(spec.inputs, TensorSpec) or spec.inputs.dtype != torch.int64 or spec.inputs.shape != ():
            raise UserError(
                f"module.kind={config.kind!r} needs numbered states (FrozenLake-v1, Taxi-v3), not {spec.inputs}."
            )
        self.policy = TablePolicy(int(spec.inputs.high) + 1, num_actions, config.epsilon.hold)
        self.alpha = config.alpha

    def set_progress(self, progress: float) -> None:
        super().set_progress(progress)
        self.alpha = self.config.alpha * self.config.alpha_schedule.factor(progress)

    def training_step(self, experience: OnPolicyExperience, batch_idx: int = 0) -> StepMetrics:
        errors = []
        for _ in range(experience.rounds):
            self.policy.epsilon.fill_(self.config.epsilon.at(self.counters["env_steps"]))
            rollout = experience.collect(self.policy, self.counters["updates"])
            self.counters["env_steps"] += rollout.num_env_steps
            self.counters["episodes"] += len(rollout.episodes)
            errors.append(self.learn(rollout))
        return {
            "losses/td_error": torch.stack(errors).mean(),
            **experience.statistics(),
            "charts/epsilon": float(self.policy.epsilon),
        }

    @torch.no_grad()
    def learn(self, rollout: Rollout) -> Tensor:
        """One update for each step, in order; returns the mean absolute TD error.

        Environments side by side are updated at once, each from the table as it was before the step.
        """
        device = self.policy.table.device
        assert isinstance(rollout.obs, Tensor)
        assert isinstance(rollout.next_obs, Tensor)
        num_actions = self.policy.table.shape[1]
        table = self.policy.table.view(-1)
        entry = (rollout.obs * num_actions + rollout.action).to(device)
        discount = self.config.gamma * (~rollout.terminated).float().to(device)
        next_obs, reward, valid = (t.to(device) for t in (rollout.next_obs, rollout.reward, rollout.valid))
        errors = torch.zeros_like(reward)
        for t in range(len(reward)):
            target = td_target(reward[t], discount[t], self.policy.table[next_obs[t]].amax(-1))
            errors[t] = (target - table[entry[t]]) * valid[t]
            table.index_add_(0, entry[t], errors[t], alpha=self.alpha)
        self.counters["updates"] += int(valid.sum())
        return errors.abs().mean()
