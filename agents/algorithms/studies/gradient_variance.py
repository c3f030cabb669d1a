"""How much each baseline lowers the variance of the policy gradient, at equal expectation (measured).

One policy, held still, plays many episodes. For every group size n they are cut into groups of n, each group gives one
estimate of the gradient with each baseline, and the spread of the estimates over groups is the estimator's:

    variance = E |g - E g|^2        deviation = |E g - E g_none| over the 95 % quantile of what chance makes of it

M episodes of at most T steps, n a group's, K baselines, P parameters of the policy. What chance makes of a mean
difference is seen by giving each group's difference a random sign. The learned value is trained beforehand, and its
policy moves with it; the study then takes fresh episodes. The moving average is the mean return-to-go of those earlier
episodes.

The gradient is linear in the weights of the steps' scores, so one backward pass over many episodes at once (torch.func)
gives all of theirs, for all baselines.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from agents.algorithms.actor_critic_agent import EvaluatedRollout
from agents.algorithms.policy_gradient import (
    Baseline,
    PolicyGradient,
    PolicyGradientConfig,
    PolicyGradientMinibatch,
    baseline_of,
)
from agents.envs.make import make_envs
from agents.experience.collector import LocalCollector
from agents.experience.data import Experience, OnPolicyData
from agents.policies.actor_critic import ActorCritic
from agents.returns import discounted_returns
from agents.types import Rollout
from lab.data.module import LabDataModule
from lab.data.spec import DataSpec
from lab.errors import UserError
from lab.seeding import derive_seed
from lab.training.learner import Image

_BASELINES: tuple[Baseline, ...] = get_args(Baseline)
_EPISODES_AT_ONCE = 32
_SIGNS = 400


class VarianceStudyConfig(PolicyGradientConfig):
    """A policy gradient whose evaluation measures all baselines."""

    kind: Literal["variance_study"] = "variance_study"  # type: ignore[assignment]
    study_episodes: PositiveInt = 1024
    """fresh episodes at each evaluation"""
    group_sizes: tuple[PositiveInt, ...] = (2, 4, 8, 16, 32)
    """episodes in one estimate of the gradient"""

    def build(self, spec: DataSpec) -> VarianceStudy:
        return VarianceStudy(self, spec)


class Estimates(NamedTuple):
    """Of one baseline and group size."""

    variance: float
    variance_error: float
    """standard error of `variance`"""
    deviation: float
    """of the mean gradient from that without a baseline; above 1 it is more than chance"""


class _LogProb(nn.Module):
    """Log-probabilities as a function of a policy's parameters."""

    def __init__(self, policy: ActorCritic) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        """(T,) of x (T, ...) and actions (T, ...)."""
        parameters = self.policy.action_parameters(self.policy.actor.backbone(x).flatten(1))
        return self.policy.distribution.log_prob_entropy(parameters, action)[0]

    def parameters_of_action(self) -> dict[str, Tensor]:
        """All but the value's own."""
        return {
            name: p.detach()
            for name, p in self.named_parameters()
            if not name.startswith(("policy.critic.", "policy.value_head."))
        }


class VarianceStudy(PolicyGradient[VarianceStudyConfig]):
    """Trains as its base does; evaluation is the study."""

    def __init__(self, config: VarianceStudyConfig, spec: DataSpec) -> None:
        if config.backbone.recurrent:
            raise UserError(
                f"module.kind='variance_study' needs a backbone without memory, not {config.backbone.name!r}."
            )
        if 2 * max(config.group_sizes) > config.study_episodes:
            raise UserError(
                f"module.group_sizes={config.group_sizes} is too large: two groups of each size must fit into "
                f"module.study_episodes={config.study_episodes}."
            )
        super().__init__(config, spec)

    def batch(self, rollout: Rollout) -> PolicyGradientMinibatch:
        """As in the base; the moving average goes on whatever the baseline is."""
        batch = super().batch(rollout)
        if self.config.baseline == "value":
            self.update_mean_return(float((batch.returns * batch.weights).sum()))
        return batch

    def evaluate(self, data: LabDataModule, split: Literal["val", "test"] = "val", **options: Any) -> dict[str, float]:
        values = super().evaluate(data, split, **options)
        self.measured = self.study(data)
        for (baseline, size), estimates in self.measured.items():
            values[f"eval/variance_{baseline}_{size}"] = estimates.variance
            values[f"eval/deviation_{baseline}_{size}"] = estimates.deviation
        return values

    def pictures(self, data: LabDataModule) -> dict[str, Image]:
        return {"variance": _picture(self.measured, self.config.group_sizes)}

    def study(self, data: LabDataModule) -> dict[tuple[str, int], Estimates]:
        """Variance and deviation of every baseline at every group size."""
        rollout = self._episodes(data)
        returns = discounted_returns(
            rollout.reward * rollout.valid,
            rollout.terminated,
            rollout.truncated,
            torch.zeros_like(rollout.reward),
            self.config.gamma,
        )
        estimates: dict[tuple[str, int], Estimates] = {}
        for size in self.config.group_sizes:
            gradients = self._gradients(rollout, returns, size).unbind(1)  # of each baseline (M / n, P)
            plain = gradients[_BASELINES.index("none")]
            for baseline, g in zip(_BASELINES, gradients, strict=True):
                squares = (g - g.mean(0)).square().sum(1) * (len(g) / (len(g) - 1))
                estimates[baseline, size] = Estimates(
                    variance=float(squares.mean()),
                    variance_error=float(squares.std() / len(g) ** 0.5),
                    deviation=0.0 if torch.equal(g, plain) else _over_chance(g - plain),
                )
        return estimates

    def _episodes(self, data: LabDataModule) -> EvaluatedRollout:
        """Fresh episodes, one a column, their rewards scaled as the learned value knows them."""
        assert isinstance(data, Experience)
        config = data.config
        envs = make_envs(config.env, self.config.study_episodes, config.env_options)
        collector = LocalCollector(envs, derive_seed(data.seed, "variance"))
        try:
            num_steps = config.num_steps if isinstance(config, OnPolicyData) else 1000
            rollout = collector.collect(self.policy, num_steps, whole_episodes=True)
        finally:
            collector.close()
        if self.reward_scaler is not None:
            rollout = rollout._replace(reward=self.reward_scaler.scaled(rollout.reward))
        return self.evaluate_rollout(rollout)

    def _gradients(self, rollout: EvaluatedRollout, returns: Tensor, size: int) -> Tensor:
        """One estimate from each group of `size` episodes with each baseline, (M / n, K, P)."""
        num_episodes = returns.shape[1] // size * size
        returns, valid, values = (t[:, :num_episodes] for t in (returns, rollout.valid, rollout.values))
        groups, valid_groups = returns.reshape(-1, size), valid.reshape(-1, size)  # (T M / n, n)
        baselines = [
            values
            if name == "value"
            else baseline_of(name, groups, valid_groups, self.mean_return).reshape(returns.shape)
            for name in _BASELINES
        ]
        weights = (torch.stack(baselines, -1) - returns[..., None]) * valid[..., None] / size  # (T, M, K)
        x = torch.where(valid.view(*valid.shape, *[1] * (rollout.x.dim() - 2)), rollout.x[:, :num_episodes], 0.0)
        log_prob = _LogProb(self.policy)
        parameters = log_prob.parameters_of_action()

        def of_episode(x: Tensor, action: Tensor, weights: Tensor) -> Tensor:
            """(T, ...), (T, ...), (T, K) -> (K, P)."""
            pull_back = vjp(lambda p: functional_call(log_prob, p, (x, action)), parameters)[1]
            gradients = vmap(lambda w: pull_back(w)[0], in_dims=1)(weights)
            return torch.cat([g.flatten(1) for g in gradients.values()], 1)

        at_once = size * max(1, _EPISODES_AT_ONCE // size)
        pieces = zip(*(t[:, :num_episodes].split(at_once, 1) for t in (x, rollout.action, weights)), strict=True)
        sums = [vmap(of_episode, in_dims=1)(*piece).unflatten(0, (-1, size)).sum(1) for piece in pieces]
        return torch.cat(sums)


def _over_chance(differences: Tensor) -> float:
    """The norm of the mean of differences (M / n, P) over the 95 % quantile of that with random signs."""
    generator = torch.Generator(differences.device).manual_seed(0)
    signs = torch.randint(2, (_SIGNS, len(differences)), generator=generator, device=differences.device) * 2.0 - 1.0
    by_chance = (signs @ differences).norm(dim=1) / len(differences)
    return float(differences.mean(0).norm() / by_chance.quantile(0.95))


_LABELS = {
    "none": "no baseline",
    "moving_average": "moving average",
    "batch_mean": "batch mean",
    "leave_one_out": "leave one out",
    "value": "learned value",
}


def _picture(measured: dict[tuple[str, int], Estimates], sizes: tuple[int, ...]) -> Image:
    """Left the variance, right the deviation, against episodes in an estimate; a line a baseline."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.4), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for baseline, marker in zip(_BASELINES, "osv^D", strict=True):
        estimates = [measured[baseline, size] for size in sizes]
        variance, error = (np.array([getattr(e, key) for e in estimates]) for key in ("variance", "variance_error"))
        (line,) = left.plot(sizes, variance, marker=marker, markersize=5, label=_LABELS[baseline])
        low = np.maximum(variance - 2 * error, variance / 4)
        left.fill_between(sizes, low, variance + 2 * error, color=line.get_color(), alpha=0.15, linewidth=0)
        if baseline != "none":
            deviation = [e.deviation for e in estimates]
            right.plot(sizes, deviation, marker=marker, markersize=5, color=line.get_color(), label=_LABELS[baseline])
    right.axhline(1.0, color="black", linestyle="--", linewidth=1, label="chance, 19 times of 20")
    left.set_yscale("log")
    left.set_ylabel("variance of the gradient estimate")
    left.set_title("how far estimates scatter", fontsize=11)
    right.set_ylabel("distance of the mean from that without a baseline,\nover what chance makes of it")
    right.set_title("whether their expectation is the same (below the line)", fontsize=11)
    right.set_ylim(bottom=0.0)
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.set_xlabel("episodes in one estimate")
        axis.legend(frameon=False, fontsize=9)
        axis.grid(alpha=0.3)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
