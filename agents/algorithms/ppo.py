"""Proximal policy optimisation (Schulman et al. 2017), with the details of Huang et al. 2022.

    r = pi(a | s) / pi_old(a | s)        loss = -E[ min(r A, clip(r, 1 - c, 1 + c) A) ] + value loss - entropy

T time steps, N environments, B minibatch, M = T N rows of a rollout (or sequences of it, with a recurrent policy).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import repeat, takewhile
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from agents.algorithms.actor_critic_agent import ActorCriticAgent, ActorCriticConfig
from agents.experience.data import OnPolicyExperience
from agents.types import Rollout
from lab.data.spec import DataSpec
from lab.engine.loss import Loss, LossFunction, Metrics
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig, of_progress
from lab.experiment import Shared
from lab.ranks import collectives
from lab.training.learner import StepMetrics


class PPOConfig(ActorCriticConfig):
    """PPO-clip."""

    kind: Literal["ppo"] = "ppo"
    optimizer: OptimizerConfig = OptimizerConfig(lr=3e-4, eps=1e-5, max_grad_norm=0.5)
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    epochs: PositiveInt = 10
    """passes over each rollout"""
    minibatch_size: Annotated[PositiveInt, Shared("equal")] = 64
    """environment steps in a minibatch; recurrent policies take as many whole sequences"""
    clip: PositiveFloat = 0.2
    """how far the probability ratio may move from 1"""
    clip_schedule: Annotated[ScheduleConfig, of_progress] = ScheduleConfig()
    value_clip: PositiveFloat | None = None
    """how far a value may move from its old one in one update"""
    target_kl: PositiveFloat | None = None
    """end a rollout's updates before the first whose minibatch shows an approximate KL above 1.5 times this"""
    normalize_advantages: Literal["no", "rollout", "minibatch"] = "minibatch"

    def build(self, spec: DataSpec) -> PPO:
        return PPO(self, spec)


class PPOMinibatch(NamedTuple):
    """Rows of a rollout (B, ...), or sequences of it (L, B, ...) with the recurrent state (S, B, F) before each, and
    the coefficients () of an update."""

    x: Tensor
    action: Tensor
    old_log_prob: Tensor
    old_values: Tensor
    returns: Tensor
    advantages: Tensor
    weights: Tensor
    """of a minibatch's rows; they sum to 1, and what only fills it up weighs 0"""
    clip_low: Tensor
    clip_high: Tensor
    entropy_coef: Tensor
    state: Tensor | None = None
    start: Tensor | None = None

    def rows(self, function: Callable[[Tensor], Any]) -> list[Any]:
        """The fields, with a function applied to those that have rows."""
        return [t if t is None or not t.dim() else function(t) for t in self]


class PPO(ActorCriticAgent[PPOConfig]):
    """Several epochs of minibatches on each rollout."""

    def __init__(self, config: PPOConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.updater = self.add_updater("policy", self.policy, self.linearized_loss, config.optimizer)

    def loss(self, batch: PPOMinibatch) -> Loss:
        """Equation 9 of Schulman et al. 2017; means are over the rows that weigh something."""
        parameters, values = self.policy.evaluate(batch.x, batch.state, batch.start)
        assert values is not None
        log_prob, entropy = self.policy.distribution.log_prob_entropy(parameters, batch.action)

        log_ratio = log_prob - batch.old_log_prob
        ratio = log_ratio.exp()
        clipped_ratio = ratio.clamp(batch.clip_low, batch.clip_high)
        surrogate = torch.minimum(ratio * batch.advantages, clipped_ratio * batch.advantages)

        squared_error = (values - batch.returns).square()
        if self.config.value_clip is not None:
            change = (values - batch.old_values).clamp(-self.config.value_clip, self.config.value_clip)
            clipped_values = batch.old_values + change
            squared_error = torch.maximum(squared_error, (clipped_values - batch.returns).square())

        policy_loss = -(batch.weights * surrogate).sum()
        value_loss = (batch.weights * squared_error).sum()
        mean_entropy = (batch.weights * entropy).sum()
        loss = policy_loss + self.config.value_coef * value_loss
        if self.config.entropy_coef:
            loss = loss - batch.entropy_coef * mean_entropy
        with torch.no_grad():
            approx_kl = (batch.weights * (ratio - 1 - log_ratio)).sum()  # Schulman's low-variance estimate
            clip_fraction = (batch.weights * (ratio != clipped_ratio)).sum()
        metrics = {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": mean_entropy.detach(),
            "approx_kl": approx_kl,
            "clip_fraction": clip_fraction,
        }
        return Loss(loss, metrics)

    def linearized_loss(self, batch: PPOMinibatch) -> Loss:
        """A scalar with the gradient and the metrics of `loss`, linear in log-probabilities and values.

        Its coefficients are made without gradient, which spares most of the small operations: with `loss` a whole
        recorded update takes 1.2 times as long (minibatches of ppo/cartpole, one core).
        """
        parameters, values = self.policy.evaluate(batch.x, batch.state, batch.start)
        assert values is not None
        log_prob, entropy = self.policy.distribution.log_prob_entropy(parameters, batch.action)
        with torch.no_grad():
            log_ratio = log_prob - batch.old_log_prob
            ratio = log_ratio.exp()
            clipped_ratio = torch.maximum(torch.minimum(ratio, batch.clip_high), batch.clip_low)
            unclipped, clipped = ratio * batch.advantages, clipped_ratio * batch.advantages
            # d ratio = ratio d log_prob; where the clipped side is the smaller one, nothing depends on the ratio
            log_prob_coef = batch.weights * unclipped * (unclipped <= clipped)
            error = values - batch.returns
            squared_error = error.square()
            if self.config.value_clip is not None:
                change = values - batch.old_values
                clipped_values = batch.old_values + change.clamp(-self.config.value_clip, self.config.value_clip)
                clipped_squared_error = (clipped_values - batch.returns).square()
                has_gradient = (change.abs() <= self.config.value_clip) | (squared_error >= clipped_squared_error)
                error, squared_error = error * has_gradient, torch.maximum(squared_error, clipped_squared_error)
            value_coef = (2 * self.config.value_coef) * batch.weights * error
            small_kl = ratio - 1 - log_ratio
            outside = (ratio != clipped_ratio).to(ratio.dtype)
            rows = torch.stack([torch.minimum(unclipped, clipped), squared_error, entropy, small_kl, outside])
            surrogate, value_loss, mean_entropy, approx_kl, clip_fraction = (
                (rows.flatten(1) @ batch.weights.flatten()).detach().unbind()
            )
        loss = (value_coef * values - log_prob_coef * log_prob).sum()
        if self.config.entropy_coef:
            loss = loss - batch.entropy_coef * (batch.weights * entropy).sum()
        metrics = {
            "policy_loss": -surrogate,
            "value_loss": value_loss,
            "entropy": mean_entropy,
            "approx_kl": approx_kl,
            "clip_fraction": clip_fraction,
        }
        return Loss(loss, metrics)

    def descended(self, name: str) -> LossFunction:
        return self.loss

    @property
    def clip(self) -> float:
        """How far a ratio may be from 1 now."""
        return self.config.clip * self.config.clip_schedule.factor(self.progress)

    def charts(self) -> StepMetrics:
        return {**super().charts(), "charts/clip": self.clip}

    def learn(self, rollout: Rollout, experience: OnPolicyExperience) -> list[Metrics]:
        """All epochs on one rollout."""
        evaluated = self.evaluate_rollout(rollout)
        advantages = evaluated.gae(self.config.gamma, self.config.gae_lambda)
        returns = advantages + evaluated.values
        self.explain(returns, evaluated)
        weights = evaluated.valid.float()
        if self.config.normalize_advantages == "rollout":
            advantages = normalized(advantages.flatten()[None], weights.flatten()[None]).view_as(advantages)
        clip = self.clip
        coefficients = torch.tensor([1 - clip, 1 + clip, self.entropy_coef], device=self.device).unbind()
        batch = PPOMinibatch(
            **self.sequences(
                rollout,
                x=evaluated.x,
                action=evaluated.action,
                old_log_prob=evaluated.log_prob,
                old_values=evaluated.values,
                returns=returns,
                advantages=advantages,
                weights=weights,
            ),
            **dict(zip(("clip_low", "clip_high", "entropy_coef"), coefficients, strict=True)),
        )
        rows: list[Metrics] = []
        minibatches: list[PPOMinibatch] = []
        for _ in range(self.config.epochs):
            if len(minibatches) != 1:  # one that holds everything is the same in each epoch
                minibatches = list(self.minibatches(batch))
            epoch = [*takewhile(bool, map(self.update, minibatches))]
            rows += epoch
            if len(epoch) < len(minibatches):
                break
        self.update_normalizer(evaluated)
        return rows

    def update(self, batch: PPOMinibatch) -> Metrics:
        """One update; none, and no metrics, where the policy has moved further than `target_kl` allows."""
        if self.config.target_kl is None:
            return super().update(batch)
        gradients, metrics, _ = self.updater.gradients(batch)
        if float(collectives.mean(metrics["approx_kl"])) > 1.5 * self.config.target_kl:
            return {}
        self.updater.apply(gradients, metrics)
        self.counters["updates"] += 1
        return metrics

    def minibatches(self, batch: PPOMinibatch) -> Iterator[PPOMinibatch]:
        """One epoch of minibatches of one size: the valid rows in a new order, all gathered at once.

        In each, weights sum to 1 and advantages are normalised, if they are to be. Rows that weigh 0 fill the last one
        up, and make a whole one only where another rank has more.
        """
        dim = 1 if self.policy.recurrent else 0
        size, steps_per_row = batch.x.shape[dim], len(batch.x) if self.policy.recurrent else 1
        length = max(1, min(self.config.minibatch_size // steps_per_row, size))
        valid = batch.weights.movedim(dim, 0).flatten(1).any(1) if dim else batch.weights > 0
        order = valid.nonzero().flatten()
        num_valid = len(order)
        num = collectives.all_reduce_max(math.ceil(num_valid / length))
        if not num:
            return iter(())
        if length < size:
            order = order[torch.randperm(num_valid).to(order.device)] if num_valid else order.new_zeros(1)
            order = order[torch.arange(num * length, device=order.device) % len(order)]
            batch = PPOMinibatch(*batch.rows(lambda t: t.index_select(dim, order)))
            batch.weights.narrow(dim, num_valid, num * length - num_valid).zero_()
        shape = batch.weights.movedim(dim, 0).shape
        advantages, weights = (t.movedim(dim, 0).reshape(num, -1) for t in (batch.advantages, batch.weights))
        if self.config.normalize_advantages == "minibatch":
            advantages = normalized(advantages, weights)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
        batch = batch._replace(
            advantages=advantages.reshape(shape).movedim(0, dim), weights=weights.reshape(shape).movedim(0, dim)
        )
        fields = batch.rows(lambda t: t.split(length, dim))
        return map(PPOMinibatch, *(field if isinstance(field, tuple) else repeat(field) for field in fields))


def normalized(advantages: Tensor, weights: Tensor) -> Tensor:
    """Advantages (K, B) with mean 0 and variance 1 in each row, over entries that weigh 1 and not 0."""
    share = weights / weights.sum(1, keepdim=True).clamp(min=1)
    centred = advantages - (share * advantages).sum(1, keepdim=True)
    return centred / ((share * centred.square()).sum(1, keepdim=True).sqrt() + 1e-8)
