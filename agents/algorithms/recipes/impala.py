"""Recipes of V-trace."""

from __future__ import annotations

from agents.algorithms.impala import ImpalaConfig
from agents.experience.data import OnPolicyData
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.experiment import Experiment, TrainerConfig


def cartpole() -> Experiment:
    """V-trace on CartPole-v1, from rollouts that are eight updates old: 500 on 5 seeds after 600,000 steps, 20 s."""
    return Experiment(
        name="impala/cartpole",
        data=OnPolicyData(env="CartPole-v1", num_envs=32, num_steps=32, rounds=16),
        module=ImpalaConfig(
            # an eps as large as small gradients, so that their noise alone does not move a policy that is solved
            optimizer=OptimizerConfig(lr=1e-3, eps=1e-4, max_grad_norm=0.5, schedule=ScheduleConfig(name="linear")),
            entropy_coef=0.003,
            staleness=8,
            normalize_obs=True,
            normalize_rewards=True,
        ),
        trainer=TrainerConfig(budget=600_000),
    )
