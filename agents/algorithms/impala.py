"""Actor-learner with V-trace (IMPALA, Espeholt et al. 2018): learns from rollouts of an older policy, without bias.

    v_t = V(s_t) + sum of gamma^k (prod of c) rho delta        advantage_t = rho_t (r_t + gamma v_{t+1} - V(s_t))

Collectors that run elsewhere send rollouts that are some updates old; `staleness` makes local ones so, which shows what
the correction is worth. T time steps, N environments.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from agents.algorithms.actor_critic_agent import ActorCriticAgent, ActorCriticConfig
from agents.experience.data import OnPolicyExperience
from agents.returns import vtrace
from agents.types import Rollout
from lab.data.spec import DataSpec
from lab.engine.loss import Loss, Metrics
from lab.ranks import collectives
from lab.training.learner import StepMetrics


class ImpalaConfig(ActorCriticConfig):
    """V-trace actor-critic."""

    kind: Literal["impala"] = "impala"
    rho_bar: PositiveFloat = 1.0
    """importance weights of the TD errors are cut at this"""
    c_bar: PositiveFloat = 1.0
    """importance weights of the traces are cut at this"""
    trace_lambda: float = Field(default=1.0, ge=0, le=1)
    correction: bool = True
    """false: take old rollouts for fresh ones"""
    passes: PositiveInt = 1
    """updates on each rollout, V-trace made anew before each"""
    staleness: NonNegativeInt = 0
    """rollouts that wait before one is learned from"""

    def build(self, spec: DataSpec) -> Impala:
        return Impala(self, spec)


class ImpalaMinibatch(NamedTuple):
    """Rows of a rollout (B, ...), or sequences of it (L, B, ...) with the recurrent state (S, B, F) before each."""

    entropy_coef: Tensor  # ()
    mean_rho: Tensor  # ()
    x: Tensor
    action: Tensor
    advantages: Tensor
    targets: Tensor
    weights: Tensor  # they sum to 1
    state: Tensor | None = None
    start: Tensor | None = None


class Impala(ActorCriticAgent[ImpalaConfig]):
    """Learns from a queue of rollouts."""

    rank_state = {**ActorCriticAgent.rank_state, "queue": None}

    def __init__(self, config: ImpalaConfig, spec: DataSpec) -> None:
        super().__init__(config, spec, record_log_prob=True)
        self.updater = self.add_updater("policy", self.policy, self.loss, config.optimizer)
        self.queue: list[Rollout] = []
        self.lags: list[int] = []  # of the rollouts learned from in this chunk, in updates

    def loss(self, batch: ImpalaMinibatch) -> Loss:
        weights = batch.weights
        parameters, values = self.policy.evaluate(batch.x, batch.state, batch.start)
        assert values is not None
        log_prob, entropy = self.policy.distribution.log_prob_entropy(parameters, batch.action)
        policy_loss = -(weights * batch.advantages * log_prob).sum()
        value_loss = (weights * (values - batch.targets).square()).sum()
        mean_entropy = (weights * entropy).sum()
        loss = policy_loss + self.config.value_coef * value_loss - batch.entropy_coef * mean_entropy
        metrics = {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": mean_entropy.detach(),
            "rho": batch.mean_rho.clone(),
        }
        return Loss(loss, metrics)

    def training_step(self, experience: OnPolicyExperience, batch_idx: int = 0) -> StepMetrics:
        self.lags = []
        return super().training_step(experience, batch_idx)

    def learn(self, rollout: Rollout, experience: OnPolicyExperience) -> list[Metrics]:
        """Learn from the oldest rollout that waits, if more than `staleness` do."""
        self.queue.append(rollout)
        if len(self.queue) <= self.config.staleness:
            return []
        oldest = self.queue.pop(0)
        if not collectives.all_reduce_max(oldest.num_env_steps):
            return []
        self.lags.append(self.counters["updates"] - oldest.policy_version)
        return [self.update(self.batch(oldest, first=i == 0)) for i in range(self.config.passes)]

    def charts(self) -> StepMetrics:
        lag: StepMetrics = {"charts/policy_lag": sum(self.lags) / len(self.lags)} if self.lags else {}
        return {**super().charts(), **lag}

    @torch.no_grad()
    def batch(self, rollout: Rollout, *, first: bool = True) -> ImpalaMinibatch:
        """A whole rollout as one minibatch; its `extras` hold the log-probabilities of the policy that acted.

        Running moments take the rollout in once, at the `first` of its passes.
        """
        evaluated = self.evaluate_rollout(rollout)
        behaviour = rollout.extras["log_prob"].to(self.device)
        log_rhos = evaluated.log_prob - behaviour if self.config.correction else torch.zeros_like(behaviour)
        corrected = vtrace(
            evaluated.reward,
            evaluated.values,
            evaluated.next_values,
            evaluated.terminated,
            evaluated.truncated,
            log_rhos,
            self.config.gamma,
            self.config.rho_bar,
            self.config.c_bar,
            self.config.trace_lambda,
        )
        if first:
            self.update_normalizer(evaluated)
            self.explain(corrected.targets, evaluated)
        weights = evaluated.valid.float() / collectives.mean(evaluated.valid.sum())
        rows = self.sequences(
            rollout,
            x=evaluated.x,
            action=evaluated.action,
            advantages=corrected.advantages,
            targets=corrected.targets,
            weights=weights,
        )
        mean_rho = (weights * log_rhos.exp().clamp(max=self.config.rho_bar)).sum()
        return ImpalaMinibatch(torch.tensor(self.entropy_coef, device=self.device), mean_rho, **rows)

    def train_state(self) -> dict[str, Any]:
        waiting = [rollout._asdict() | {"episodes": []} for rollout in self.queue]
        return super().train_state() | {"queue": waiting}

    def load_train_state(self, state: dict[str, Any]) -> None:
        super().load_train_state(state)
        self.queue = [Rollout(**waiting) for waiting in state["queue"]]
