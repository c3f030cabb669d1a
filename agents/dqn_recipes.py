"""DQN's recipes on gymnasium's classic environments."""

from __future__ import annotations

from agents.dqn import DQNConfig
from agents.experience import ReplayData
from agents.exploration import EpsilonConfig
from agents.replay import ReplayConfig
from lab.backbones import BackboneConfig
from lab.experiment import Experiment, TrainerConfig
from lab.optim import OptimizerConfig, ScheduleConfig

FAMILY = "dqn"


def cartpole() -> Experiment:
    """DQN with 5-step returns on CartPole-v1."""
    return Experiment(
        name="dqn/cartpole",
        data=ReplayData(
            env="CartPole-v1",
            num_envs=8,
            num_steps=16,
            learning_starts=1_000,
            replay=ReplayConfig(capacity=100_000, n_step=5),
        ),
        module=DQNConfig(
            backbone=BackboneConfig("mlp", hidden=(256, 256)),
            optimizer=OptimizerConfig(lr=1.5e-3, max_grad_norm=10.0, schedule=ScheduleConfig(name="linear")),
            gamma=0.995,
            updates_per_env_step=0.5,
            double=False,
            target_period=64,
            epsilon=EpsilonConfig(end=0.04, decay_steps=8_000),
        ),
        trainer=TrainerConfig(budget=24_000, eval_period=2_000),
    )
