"""Policy gradients with baselines: REINFORCE (Williams 1992) to advantage actor-critic (Mnih et al. 2016).

    grad J = E[ sum_t grad log pi(a_t | s_t) (G_t - b(s_t)) ]

T time steps, N environments, B = T N.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from agents.actor_critic import ActorCritic
from agents.agent import Agent
from agents.experience import OnPolicyData, OnPolicyExperience
from agents.returns import discounted_returns, gae
from agents.types import Rollout, map_obs
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec
from lab.experiment import Experiment, ModuleConfig, TrainerConfig
from lab.learner import StepMetrics, means
from lab.optim import Metrics, OptimizerConfig, ScheduleConfig

FAMILY = "pg"


class PolicyGradientConfig(ModuleConfig):
    """A policy, its baseline, and one update a rollout."""

    kind: Literal["policy_gradient"] = "policy_gradient"
    backbone: BackboneConfig = BackboneConfig("mlp", hidden=(64, 64), activation="tanh")
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, max_grad_norm=0.5)
    gamma: float = Field(default=0.99, ge=0, le=1)
    gae_lambda: float = Field(default=1.0, ge=0, le=1)
    """with a value baseline: 1 is Monte Carlo, 0 is one-step TD"""
    baseline: Literal["none", "batch_mean", "value"] = "value"
    shared_backbone: bool = False
    """one backbone for policy and value"""
    value_coef: NonNegativeFloat = 0.5
    entropy_coef: NonNegativeFloat = 0.0
    normalize_advantages: bool = False

    def build(self, spec: DataSpec) -> PolicyGradient:
        return PolicyGradient(self, spec)


class PolicyGradient(Agent):
    """One gradient step on each rollout."""

    config: PolicyGradientConfig
    policy: ActorCritic

    def __init__(self, config: PolicyGradientConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.policy = ActorCritic(
            config.backbone, spec, shared=config.shared_backbone, value=config.baseline == "value"
        )
        self.updater = self.add_updater("policy", self.policy, self.loss, config.optimizer)

    def training_step(self, experience: OnPolicyExperience, batch_idx: int = 0) -> StepMetrics:
        rows: list[Metrics] = []
        for _ in range(experience.rounds):
            rollout = experience.collect(self.policy, self.counters["updates"])
            self.counters["env_steps"] += rollout.num_env_steps
            self.counters["episodes"] += len(rollout.episodes)
            rows.append(self.updater.step(*self.batch(rollout)))
            self.counters["updates"] += 1
        return {**means(rows), **experience.statistics()}

    @torch.no_grad()
    def batch(self, rollout: Rollout) -> tuple[Tensor, ...]:
        """Prepared observations (B, ...); actions, advantages, returns and weights (B,); a reset row weighs 0."""
        num_steps, num_envs = rollout.reward.shape
        x = self.policy.actor.prepare(map_obs(rollout.obs, lambda t: t.flatten(0, 1).to(self.device)))
        next_x = self.policy.actor.prepare(map_obs(rollout.next_obs, lambda t: t.flatten(0, 1).to(self.device)))
        reward, terminated, truncated, valid = (
            t.to(self.device) for t in (rollout.reward, rollout.terminated, rollout.truncated, rollout.valid)
        )
        if self.config.baseline == "value":
            values = self.policy.values(x).view(num_steps, num_envs)
            next_values = self.policy.values(next_x).view(num_steps, num_envs)
            advantages = gae(
                reward, values, next_values, terminated, truncated, self.config.gamma, self.config.gae_lambda
            )
            returns = advantages + values
        else:
            returns = discounted_returns(reward, terminated, truncated, torch.zeros_like(reward), self.config.gamma)
            advantages = returns - returns[valid].mean() if self.config.baseline == "batch_mean" else returns
        if self.config.normalize_advantages:
            advantages = (advantages - advantages[valid].mean()) / (advantages[valid].std() + 1e-8)
        weights = valid.float() / valid.sum()
        flat = (t.flatten(0, 1) for t in (rollout.action.to(self.device), advantages, returns, weights))
        return (x, *flat)

    def loss(
        self, x: Tensor, action: Tensor, advantages: Tensor, returns: Tensor, weights: Tensor
    ) -> tuple[Tensor, Metrics]:
        """All (B, ...); see `batch`."""
        parameters, values = self.policy.evaluate(x)
        log_prob, entropy = self.policy.distribution.log_prob_entropy(parameters, action)
        policy_loss = -(weights * advantages * log_prob).sum()
        mean_entropy = (weights * entropy).sum()
        loss = policy_loss - self.config.entropy_coef * mean_entropy
        metrics = {"policy_loss": policy_loss.detach(), "entropy": mean_entropy.detach()}
        if values is not None:
            value_loss = (weights * (values - returns).square()).sum()
            loss = loss + self.config.value_coef * value_loss
            metrics["value_loss"] = value_loss.detach()
        return loss, metrics


def cartpole() -> Experiment:
    """Advantage actor-critic with a learned value baseline on CartPole-v1."""
    return Experiment(
        name="pg/cartpole",
        data=OnPolicyData(env="CartPole-v1", num_envs=8, num_steps=32, rounds=16),
        module=PolicyGradientConfig(
            optimizer=OptimizerConfig(lr=2e-3, max_grad_norm=0.5, schedule=ScheduleConfig(name="linear")),
            gae_lambda=0.95,
            normalize_advantages=True,
        ),
        trainer=TrainerConfig(budget=300_000),
    )
