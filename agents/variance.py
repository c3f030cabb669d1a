"""How much each baseline lowers the variance of the policy gradient, at equal expectation (measured).

One policy, held still, plays many episodes. For every group size n the episodes are cut into groups of n, each group
gives one estimate of the gradient with each baseline, and the variance over groups is the estimator's:

    variance = E |g - E g|^2        deviation = |E g - E g_none| in standard errors of that difference

M episodes, n a group's. The learned value is trained beforehand, and its policy moves with it; the study then takes
fresh episodes. The moving average is the mean return-to-go of those earlier episodes.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from agents.actor_critic import Evaluated
from agents.collector import LocalCollector
from agents.envs import make_envs
from agents.experience import Experience, OnPolicyData
from agents.policy_gradient import Baseline, PolicyGradient, PolicyGradientConfig, baseline_of
from agents.returns import discounted_returns
from lab.data.module import LabDataModule
from lab.data.spec import DataSpec
from lab.experiment import Experiment, TrainerConfig
from lab.learner import Image
from lab.optim import OptimizerConfig

FAMILY = "pg"

_BASELINES: tuple[Baseline, ...] = get_args(Baseline)


class VarianceStudyConfig(PolicyGradientConfig):
    """A policy gradient whose evaluation measures all baselines."""

    kind: Literal["variance_study"] = "variance_study"  # type: ignore[assignment]
    study_episodes: PositiveInt = 256
    """fresh episodes at each evaluation"""
    group_sizes: tuple[PositiveInt, ...] = (2, 4, 8, 16)
    """episodes in one estimate of the gradient"""

    def build(self, spec: DataSpec) -> VarianceStudy:
        return VarianceStudy(self, spec)


class Estimates(NamedTuple):
    """Of one baseline and group size: the variance, the mean gradient, and that mean's distance from `none`'s."""

    variance: float
    mean: Tensor
    deviation: float


class VarianceStudy(PolicyGradient):
    """Trains as its base does; evaluation is the study."""

    config: VarianceStudyConfig

    def evaluate(self, data: LabDataModule, split: Literal["val", "test"] = "val", **options: Any) -> dict[str, float]:
        values = super().evaluate(data, split, **options)
        self.measured = self.study(data)
        for (baseline, size), found in self.measured.items():
            values[f"eval/variance_{baseline}_{size}"] = found.variance
            values[f"eval/deviation_{baseline}_{size}"] = found.deviation
        return values

    def pictures(self, data: LabDataModule) -> dict[str, Image]:
        return {"variance": _picture(self.measured, self.config.group_sizes)}

    def study(self, data: LabDataModule) -> dict[tuple[str, int], Estimates]:
        """Variance and bias of every baseline at every group size."""
        assert isinstance(data, Experience)
        config = data.config
        envs = make_envs(config.env, self.config.study_episodes, config.env_options)
        collector = LocalCollector(envs, seed=data.seed)
        try:
            num_steps = config.num_steps if isinstance(config, OnPolicyData) else 1000
            rollout = collector.collect(self.policy, num_steps, whole_episodes=True)
        finally:
            collector.close()
        seen = self.evaluate_rollout(rollout)
        gradients = {
            (baseline, size): self._gradients(seen, baseline, size)  # (M / n, P)
            for size in self.config.group_sizes
            for baseline in _BASELINES
        }
        found: dict[tuple[str, int], Estimates] = {}
        for (baseline, size), g in gradients.items():
            difference = g - gradients["none", size]
            # |mean difference| against what its own noise would give
            noise = (difference.var(0).sum() / len(g)).sqrt()
            deviation = float(difference.mean(0).norm() / noise) if baseline != "none" else 0.0
            found[baseline, size] = Estimates(float(g.var(0).sum()), g.mean(0), deviation)
        return found

    def _gradients(self, seen: Evaluated, baseline: Baseline, size: int) -> Tensor:
        """One estimate of the gradient from each group of `size` episodes, (M / n, P) over the actor's parameters."""
        returns = discounted_returns(
            seen.reward * seen.valid,
            seen.terminated,
            seen.truncated,
            torch.zeros_like(seen.reward),
            self.config.gamma,
        )
        parameters = [*self.policy.actor.parameters(), *self.policy.action_head.parameters()]
        groups = []
        for first in range(0, returns.shape[1] - size + 1, size):
            columns = slice(first, first + size)
            g, valid = returns[:, columns], seen.valid[:, columns]
            held = seen.values[:, columns] if baseline == "value" else baseline_of(baseline, g, valid, self.mean_return)
            with torch.enable_grad():
                features = self.policy.actor.backbone(seen.x[:, columns][valid]).flatten(1)
                action_parameters = self.policy.action_parameters(features)
                action = seen.action[:, columns][valid]
                log_prob, _ = self.policy.distribution.log_prob_entropy(action_parameters, action)
                loss = -(log_prob * (g - held)[valid]).sum() / size
            groups.append(torch.cat([t.flatten() for t in torch.autograd.grad(loss, parameters)]))
        return torch.stack(groups)


def _picture(measured: dict[tuple[str, int], Estimates], sizes: tuple[int, ...]) -> Image:
    """Variance against episodes in an estimate, a line a baseline, both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axis = figure.subplots()
    for baseline in _BASELINES:
        variances = [measured[baseline, size].variance for size in sizes]
        axis.loglog(sizes, variances, marker="o", markersize=4, label=baseline.replace("_", " "))
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.minorticks_off()
    axis.set_xlabel("episodes in one estimate")
    axis.set_ylabel("variance of the gradient")
    axis.legend(frameon=False, fontsize=9)
    axis.grid(alpha=0.3)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def variance() -> Experiment:
    """Variance of the policy gradient under each baseline against episodes, on CartPole-v1; a picture and numbers."""
    return Experiment(
        name="pg/variance",
        data=OnPolicyData(env="CartPole-v1", num_envs=32, num_steps=500, whole_episodes=True),
        module=VarianceStudyConfig(optimizer=OptimizerConfig(lr=3e-3), normalize_rewards=True),
        trainer=TrainerConfig(budget=30_000, eval_period=30_000),
    )
