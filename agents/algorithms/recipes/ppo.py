"""Recipes for PPO; where the SB3 zoo has tuned settings for an environment, these start from them."""

from __future__ import annotations

from agents.algorithms.ppo import PPOConfig
from agents.envs.cartpole_positions import ENV_ID as CARTPOLE_POSITIONS
from agents.experience.data import OnPolicyData
from lab.backbones import BackboneConfig
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.experiment import Experiment, TrainerConfig

FAMILY = "ppo"

_CONSTANT, _LINEAR = ScheduleConfig(), ScheduleConfig(name="linear")


def _adam(lr: float, schedule: ScheduleConfig = _CONSTANT) -> OptimizerConfig:
    return OptimizerConfig(lr=lr, eps=1e-5, max_grad_norm=0.5, schedule=schedule)


def cartpole() -> Experiment:
    """PPO on CartPole-v1 at the SB3 zoo's settings: 500 at the end on 5 seeds; 100,000 steps in 7 s on one core."""
    return Experiment(
        name="ppo/cartpole",
        data=OnPolicyData(env="CartPole-v1", num_envs=8, num_steps=32, rounds=4),
        module=PPOConfig(
            optimizer=_adam(1e-3, _LINEAR),
            gamma=0.98,
            gae_lambda=0.8,
            epochs=20,
            minibatch_size=256,
            clip_schedule=_LINEAR,
        ),
        trainer=TrainerConfig(budget=100_000),
    )


def cartpole_wide() -> Experiment:
    """PPO on CartPole-v1 with 1,024 environments and four epochs, for many steps a second."""
    return Experiment(
        name="ppo/cartpole-wide",
        data=OnPolicyData(env="CartPole-v1", num_envs=1024, num_steps=32),
        module=PPOConfig(optimizer=_adam(2e-3, _LINEAR), gamma=0.98, gae_lambda=0.9, epochs=4, minibatch_size=4096),
        trainer=TrainerConfig(budget=4_000_000),
    )


def acrobot() -> Experiment:
    """PPO on Acrobot-v1: -78 after 300,000 steps (5 seeds), 20 s on one core."""
    return Experiment(
        name="ppo/acrobot",
        data=OnPolicyData(env="Acrobot-v1", num_envs=16, num_steps=128, rounds=2),
        module=PPOConfig(
            optimizer=_adam(1e-3, _LINEAR),
            gae_lambda=0.94,
            epochs=10,
            minibatch_size=256,
            normalize_obs=True,
            normalize_rewards=True,
        ),
        trainer=TrainerConfig(budget=300_000),
    )


def mountain_car() -> Experiment:
    """PPO on MountainCar-v0: -104 after 500,000 steps (5 seeds), 20 s on one core."""
    return Experiment(
        name="ppo/mountain-car",
        data=OnPolicyData(env="MountainCar-v0", num_envs=16, num_steps=64, rounds=2),
        module=PPOConfig(
            optimizer=_adam(1e-3, _LINEAR),
            gae_lambda=0.98,
            epochs=8,
            minibatch_size=256,
            entropy_coef=0.01,  # without it the first way up that is found is kept
            entropy_schedule=_LINEAR,
            normalize_obs=True,
            normalize_rewards=True,
        ),
        trainer=TrainerConfig(budget=500_000),
    )


def pendulum() -> Experiment:
    """PPO on Pendulum-v1, its Gaussian clipped to the bounds: -150 after 200,000 steps (5 seeds), 10 s on one core."""
    return Experiment(
        name="ppo/pendulum",
        data=OnPolicyData(env="Pendulum-v1", num_envs=16, num_steps=256),
        module=PPOConfig(
            optimizer=_adam(1e-3, _LINEAR),
            gamma=0.97,
            gae_lambda=0.9,
            epochs=10,
            minibatch_size=256,
            normalize_obs=True,
            normalize_rewards=True,
        ),
        trainer=TrainerConfig(budget=200_000),
    )


def cartpole_positions() -> Experiment:
    """PPO with an LSTM on CartPole without velocities: 500 on 5 seeds after 200,000 steps, a minute on one core."""
    return Experiment(
        name="ppo/cartpole-positions",
        data=OnPolicyData(env=CARTPOLE_POSITIONS, num_envs=16, num_steps=128),
        module=PPOConfig(
            backbone=BackboneConfig("lstm", hidden=64),
            optimizer=_adam(1e-3, _LINEAR),
            epochs=10,
            minibatch_size=512,
            clip_schedule=_LINEAR,
            sequence_length=32,
            normalize_obs=True,
            normalize_rewards=True,  # else errors of the value fill the clipped gradient
        ),
        trainer=TrainerConfig(budget=200_000),
    )


def lunar_lander() -> Experiment:
    """PPO on LunarLander-v3 (extra `box2d`): 275 after 500,000 steps (5 seeds, the worst 270), 35 s on one core."""
    return Experiment(
        name="ppo/lunar-lander",
        data=OnPolicyData(env="LunarLander-v3", num_envs=16, num_steps=256, rounds=2),
        module=PPOConfig(
            optimizer=_adam(1e-3, _LINEAR),
            gamma=0.995,
            gae_lambda=0.98,
            epochs=8,
            minibatch_size=256,
            entropy_coef=0.01,
            entropy_schedule=_LINEAR,
            normalize_obs=True,
            normalize_rewards=True,
        ),
        trainer=TrainerConfig(budget=500_000),
    )


def bipedal_walker() -> Experiment:
    """PPO on BipedalWalker-v3 (extra `box2d`): 285 after two million steps (5 seeds, worst 260), 15 min, busy core."""
    return Experiment(
        name="ppo/bipedal-walker",
        data=OnPolicyData(env="BipedalWalker-v3", num_envs=32, num_steps=512),
        module=PPOConfig(
            optimizer=_adam(5e-4, _LINEAR),
            minibatch_size=512,
            normalize_obs=True,
            normalize_rewards=True,
        ),
        trainer=TrainerConfig(budget=2_000_000),
    )


def pong() -> Experiment:
    """PPO on Pong from frames (needs the extra `atari` and a GPU)."""
    return Experiment(
        name="ppo/pong",
        data=OnPolicyData(env="ALE/Pong-v5", num_envs=64, num_steps=128),
        module=PPOConfig(
            backbone=BackboneConfig("nature_cnn"),
            shared_backbone=True,
            optimizer=_adam(5e-4, _LINEAR),
            epochs=4,
            minibatch_size=1024,
            clip=0.1,
            entropy_coef=0.01,
        ),
        trainer=TrainerConfig(budget=10_000_000),
    )
