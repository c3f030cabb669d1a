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

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from agents.algorithms.actor_critic_agent import ActorCriticAgent, ActorCriticConfig, power_of_two
from agents.experience.data import OnPolicyExperience
from agents.returns import discounted_returns
from agents.types import Rollout
from lab.data.spec import DataSpec
from lab.engine.loss import Loss, Metrics
from lab.errors import UserError, unknown
from lab.ranks import collectives

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


class PolicyGradientMinibatch(NamedTuple):
    """Rows of a rollout (B, ...), or sequences of it (L, B, ...) with the recurrent state (S, B, F) before each."""

    entropy_coef: Tensor  # ()
    x: Tensor
    action: Tensor
    advantages: Tensor
    returns: Tensor
    weights: Tensor  # they sum to 1
    state: Tensor | None = None
    start: Tensor | None = None


PolicyGradientConfigT = TypeVar("PolicyGradientConfigT", bound=PolicyGradientConfig)


class PolicyGradient(ActorCriticAgent[PolicyGradientConfigT]):
    """One gradient step on each rollout."""

    def __init__(self, config: PolicyGradientConfigT, spec: DataSpec) -> None:
        super().__init__(config, spec, value=config.baseline == "value")
        self.mean_return: float | None = None
        self.updater = self.add_updater("policy", self.policy, self.loss, config.optimizer)

    def loss(self, batch: PolicyGradientMinibatch) -> Loss:
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

    def collect(self, experience: OnPolicyExperience) -> Rollout:
        """The next rollout. Raises UserError when the baseline needs whole episodes and the rollout has none."""
        if self.config.baseline != "value" and not experience.config.whole_episodes:
            raise UserError(f"module.baseline={self.config.baseline!r} needs whole episodes: data.whole_episodes=true.")
        return super().collect(experience)

    def learn(self, rollout: Rollout, experience: OnPolicyExperience) -> list[Metrics]:
        return [self.update(self.batch(rollout))] if collectives.all_reduce_max(rollout.num_env_steps) else []

    @torch.no_grad()
    def batch(self, rollout: Rollout) -> PolicyGradientMinibatch:
        """A whole rollout as one minibatch; a row that is not valid weighs 0."""
        evaluated = self.evaluate_rollout(rollout)
        if self.config.baseline == "value":
            advantages = evaluated.gae(self.config.gamma, self.config.gae_lambda)
            returns = advantages + evaluated.values
            self.explain(returns, evaluated)
        else:
            returns = discounted_returns(
                evaluated.reward * evaluated.valid,
                evaluated.terminated,
                evaluated.truncated,
                evaluated.next_values,
                self.config.gamma,
            )
            advantages = returns - baseline_of(self.config.baseline, returns, evaluated.valid, self.mean_return)
            if rollout.num_env_steps:
                self.update_mean_return(float(returns[evaluated.valid].mean()))
        valid = evaluated.valid
        if self.config.normalize_advantages and rollout.num_env_steps > 1:
            advantages = (advantages - advantages[valid].mean()) / (advantages[valid].std() + 1e-8)
        self.update_normalizer(evaluated)
        weights = valid.float() / collectives.mean(valid.sum())
        entropy_coef = torch.tensor(self.entropy_coef, device=self.device)
        rows = self.sequences(
            rollout, x=evaluated.x, action=evaluated.action, advantages=advantages, returns=returns, weights=weights
        )
        if not self.policy.recurrent and not bool(valid.all()):
            rows = _only_valid(rows, valid.flatten())
        return PolicyGradientMinibatch(entropy_coef, **rows)

    def train_state(self) -> dict[str, Any]:
        return super().train_state() | {"mean_return": self.mean_return}

    def load_train_state(self, state: dict[str, Any]) -> None:
        super().load_train_state(state)
        self.mean_return = state["mean_return"]

    def update_mean_return(self, mean_return: float) -> None:
        """Take the mean return-to-go of a rollout into the moving average."""
        decay = self.config.moving_average_decay if self.mean_return is not None else 0.0
        self.mean_return = decay * (self.mean_return or 0.0) + (1 - decay) * mean_return


def baseline_of(name: str, returns: Tensor, valid: Tensor, mean_return: float | None) -> Tensor:
    """The baseline (T, N) of whole episodes that begin together; `returns` (T, N) are rewards-to-go.

    `mean_return` is the moving average over earlier rollouts. Raises UserError for a name that is none of `BASELINES`,
    and for leave_one_out with one episode.
    """
    if name not in BASELINES:
        raise unknown("baseline", name, BASELINES)
    return BASELINES[name](returns, valid, mean_return)


def _no_baseline(returns: Tensor, valid: Tensor, mean_return: float | None) -> Tensor:
    return torch.zeros_like(returns)


def _moving_average(returns: Tensor, valid: Tensor, mean_return: float | None) -> Tensor:
    return torch.full_like(returns, mean_return or 0.0)


def _batch_mean(returns: Tensor, valid: Tensor, mean_return: float | None) -> Tensor:
    return ((returns * valid).sum(1, keepdim=True) / returns.shape[1]).expand_as(returns)


def _leave_one_out(returns: Tensor, valid: Tensor, mean_return: float | None) -> Tensor:
    num_envs = returns.shape[1]
    if num_envs < 2:
        raise UserError("module.baseline='leave_one_out' needs data.num_envs of 2 or more.")
    valid_returns = returns * valid
    return (valid_returns.sum(1, keepdim=True) - valid_returns) / (num_envs - 1)


BASELINES: dict[str, Callable[[Tensor, Tensor, float | None], Tensor]] = {
    "none": _no_baseline,
    "moving_average": _moving_average,
    "batch_mean": _batch_mean,
    "leave_one_out": _leave_one_out,
}
"""of returns alone; the learned value is the network's"""


def _only_valid(tensors: dict[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
    """The valid rows, padded with rows of zeros to a power of two, so that few batch shapes occur."""
    size = power_of_two(int(valid.sum()))
    rows = valid.nonzero().flatten()
    padded = {}
    for name, t in tensors.items():
        padded[name] = t.new_zeros(size, *t.shape[1:])
        padded[name][: len(rows)] = t[rows]
    return padded
