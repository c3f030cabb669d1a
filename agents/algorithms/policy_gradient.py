"""Policy gradients with baselines: REINFORCE (Williams 1992) and advantage actor-critic (A2C, Mnih et al. 2016).

    grad J = E[ sum_t grad log pi(a_t | s_t) (G_t - b_t) ]

T time steps, N environments, B batch. The baseline b_t:

- none: 0.
- moving_average: a running mean of the returns-to-go of earlier rollouts.
- batch_mean: the mean return-to-go of all episodes of the rollout at step t, a finished one counting 0. It holds an
  episode's own return too, so the gradient is (N - 1) / N of the true one.
- leave_one_out: the same without the episode's own (Kool et al. 2019): unbiased.
- value: a learned V(s_t), with generalised advantages; the only one that can bootstrap where a rollout cuts an episode.

All but the last need whole episodes (`data.whole_episodes`).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from agents.algorithms.actor_critic_agent import ActorCriticAgent, ActorCriticConfig, power_of_two
from agents.experience.data import OnPolicyExperience
from agents.returns import discounted_returns, gae
from agents.types import Rollout
from lab.data.spec import DataSpec
from lab.engine.loss import Loss, Metrics
from lab.errors import UserError
from lab.ranks import collectives
from lab.training.learner import StepMetrics, means

Baseline = Literal["none", "moving_average", "batch_mean", "leave_one_out", "value"]


class PolicyGradientConfig(ActorCriticConfig):
    """A policy, its baseline, and one update a rollout."""

    kind: Literal["policy_gradient"] = "policy_gradient"
    baseline: Baseline = "value"
    gae_lambda: float = Field(default=1.0, ge=0, le=1)
    """with a value baseline: 1 is Monte Carlo, 0 is one-step TD"""
    moving_average_decay: float = Field(default=0.9, ge=0, lt=1)
    normalize_advantages: bool = False
    """divide by their deviation; it raises noise where all actions are equally good"""

    def build(self, spec: DataSpec) -> PolicyGradient:
        return PolicyGradient(self, spec)


class Minibatch(NamedTuple):
    """Rows of a rollout (B, ...), or sequences of it (L, B, ...) with the recurrent state (S, B, F) before each."""

    entropy_coef: Tensor  # ()
    x: Tensor
    action: Tensor
    advantages: Tensor
    returns: Tensor
    weights: Tensor  # they sum to 1
    state: Tensor | None = None
    start: Tensor | None = None


class PolicyGradient(ActorCriticAgent):
    """One gradient step on each rollout."""

    config: PolicyGradientConfig

    def __init__(self, config: PolicyGradientConfig, spec: DataSpec) -> None:
        super().__init__(config, spec, value=config.baseline == "value")
        self.mean_return: float | None = None
        self.updater = self.add_updater("policy", self.policy, self.loss, config.optimizer)

    def training_step(self, experience: OnPolicyExperience, batch_idx: int = 0) -> StepMetrics:
        if self.config.baseline != "value" and not experience.config.whole_episodes:
            raise UserError(f"module.baseline={self.config.baseline!r} needs whole episodes: data.whole_episodes=true.")
        rows: list[Metrics] = []
        for _ in range(experience.rounds):
            rows.append(self.update(self.batch(self.collect(experience))))
            self.counters["updates"] += 1
        return {**means(rows), **experience.statistics()}

    @torch.no_grad()
    def batch(self, rollout: Rollout) -> Minibatch:
        """A whole rollout as one minibatch; a row that is not valid weighs 0."""
        seen = self.evaluate_rollout(rollout)
        if self.config.baseline == "value":
            advantages = gae(
                seen.reward,
                seen.values,
                seen.next_values,
                seen.terminated,
                seen.truncated,
                self.config.gamma,
                self.config.gae_lambda,
            )
            returns = advantages + seen.values
        else:
            returns = discounted_returns(
                seen.reward * seen.valid, seen.terminated, seen.truncated, seen.next_values, self.config.gamma
            )
            advantages = returns - baseline_of(self.config.baseline, returns, seen.valid, self.mean_return)
            self._follow(float(returns[seen.valid].mean()))
        valid = seen.valid
        if self.config.normalize_advantages:
            advantages = (advantages - advantages[valid].mean()) / (advantages[valid].std() + 1e-8)
        self.update_normalizer(seen)
        weights = valid.float() / collectives.mean(valid.sum())
        entropy_coef = torch.tensor(self.entropy_coef, device=self.device)
        rows = self.sequences(
            rollout, x=seen.x, action=seen.action, advantages=advantages, returns=returns, weights=weights
        )
        if not self.policy.recurrent and not bool(valid.all()):
            rows = _only_valid(rows, valid.flatten())
        return Minibatch(entropy_coef, **rows)

    def loss(self, batch: Minibatch) -> Loss:
        weights = batch.weights
        parameters, values = self.policy.evaluate(batch.x, batch.state, batch.start)
        log_prob, entropy = self.policy.distribution.log_prob_entropy(parameters, batch.action)
        policy_loss = -(weights * batch.advantages * log_prob).sum()
        mean_entropy = (weights * entropy).sum()
        loss = policy_loss - batch.entropy_coef * mean_entropy if self.config.entropy_coef else policy_loss
        metrics = {"policy_loss": policy_loss.detach(), "entropy": mean_entropy.detach()}
        if values is not None:
            value_loss = (weights * (values - batch.returns).square()).sum()
            loss = loss + self.config.value_coef * value_loss
            metrics["value_loss"] = value_loss.detach()
        return Loss(loss, metrics)

    def train_state(self) -> dict[str, Any]:
        return super().train_state() | {"mean_return": self.mean_return}

    def load_train_state(self, state: dict[str, Any]) -> None:
        super().load_train_state(state)
        self.mean_return = state["mean_return"]

    def _follow(self, mean_return: float) -> None:
        decay = self.config.moving_average_decay if self.mean_return is not None else 0.0
        self.mean_return = decay * (self.mean_return or 0.0) + (1 - decay) * mean_return


def baseline_of(name: Baseline, returns: Tensor, valid: Tensor, mean_return: float | None) -> Tensor:
    """The baseline (T, N) of whole episodes that begin together; `returns` (T, N) are rewards-to-go.

    `mean_return` is the moving average over earlier rollouts. Raises UserError for leave_one_out with one episode.
    """
    if name == "none":
        return torch.zeros_like(returns)
    if name == "moving_average":
        return torch.full_like(returns, mean_return or 0.0)
    num_envs = returns.shape[1]
    total = (returns * valid).sum(1, keepdim=True)  # (T, 1)
    if name == "batch_mean":
        return (total / num_envs).expand_as(returns)
    if num_envs < 2:
        raise UserError("module.baseline='leave_one_out' needs data.num_envs of 2 or more.")
    return (total - returns * valid) / (num_envs - 1)


def _only_valid(tensors: dict[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
    """The valid rows, filled up with rows of zeros to a power of two, so that few batch shapes occur."""
    size = power_of_two(int(valid.sum()))
    rows = valid.nonzero().flatten()
    filled = {}
    for name, t in tensors.items():
        filled[name] = t.new_zeros(size, *t.shape[1:])
        filled[name][: len(rows)] = t[rows]
    return filled
