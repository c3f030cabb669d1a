"""Recipes of REINFORCE and A2C, and the study of their gradient's variance."""

from __future__ import annotations

from agents.algorithms.policy_gradient import PolicyGradientConfig
from agents.algorithms.studies.gradient_variance import VarianceStudyConfig
from agents.experience.data import OnPolicyData
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.experiment import Experiment, TrainerConfig

FAMILY = "pg"


def cartpole() -> Experiment:
    """REINFORCE with a learned value baseline on CartPole-v1: 500 on 5 seeds after 500,000 steps, 5 s on one core.

    Monte Carlo returns of whole episodes: a value that bootstraps leaves the cart's slow drift out of the gradient.
    """
    return Experiment(
        name="pg/cartpole",
        data=OnPolicyData(env="CartPole-v1", num_envs=32, num_steps=500, whole_episodes=True),
        module=PolicyGradientConfig(
            optimizer=OptimizerConfig(lr=3e-3, schedule=ScheduleConfig(name="linear")),
            normalize_obs=True,
            normalize_rewards=True,
        ),
        trainer=TrainerConfig(budget=500_000),
    )


def a2c_cartpole() -> Experiment:
    """A2C on CartPole-v1: 500 on 5 seeds after 600,000 steps, 5 s on one core.

    Many environments make one gradient from 1,024 fresh steps: with fewer it solves the task sooner and loses it again.
    """
    return Experiment(
        name="pg/a2c-cartpole",
        data=OnPolicyData(env="CartPole-v1", num_envs=64, num_steps=16, rounds=16),
        module=PolicyGradientConfig(
            optimizer=OptimizerConfig(lr=2e-3, schedule=ScheduleConfig(name="linear")),
            gae_lambda=0.98,
            entropy_coef=0.003,
            normalize_obs=True,
            normalize_rewards=True,
        ),
        trainer=TrainerConfig(budget=600_000),
    )


def variance() -> Experiment:
    """Variance of the policy gradient under each baseline against episodes, on CartPole-v1; a picture and numbers."""
    return Experiment(
        name="pg/variance",
        data=OnPolicyData(env="CartPole-v1", num_envs=16, num_steps=500, whole_episodes=True),
        module=VarianceStudyConfig(optimizer=OptimizerConfig(lr=3e-3), normalize_rewards=True),
        trainer=TrainerConfig(budget=30_000, eval_period=30_000),
    )
