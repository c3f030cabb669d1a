"""Recipes for DQN and Rainbow; where the SB3 zoo has tuned settings for an environment, these start from them."""

from __future__ import annotations

from agents.algorithms.dqn import DQNConfig
from agents.experience.replay import ReplayData
from agents.policies.exploration import EpsilonConfig
from agents.policies.return_distributions import CategoricalConfig
from agents.replay.buffer import ReplayConfig
from agents.replay.priorities import PriorityConfig
from lab.backbones import BackboneConfig
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.experiment import Experiment, TrainerConfig

FAMILY = "dqn"

_NEVER = EpsilonConfig(start=0.0, end=0.0)  # noisy layers explore


def cartpole() -> Experiment:
    """Double DQN with 5-step returns on CartPole-v1: 500 at the end on 5 seeds; 20,000 steps in 8 s on one core.

    An optimal agent never falls: wherever the pole can be saved, every action is worth 1 / (1 - gamma). Values that
    come near that no longer tell the right action from the wrong one, and a solved task is lost again. The uncorrected
    5-step returns of an agent that takes every fourth action at random hold what mistakes cost, and keep them apart.
    """
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
            backbone=BackboneConfig("mlp", hidden=(128, 128)),
            optimizer=_adam(2.3e-3),
            initial_reward=1.0,  # what is learned is how states fall short of balancing for ever
            batch_size=128,
            target_tau=0.01,
            epsilon=EpsilonConfig(end=0.25, decay_steps=4_000),
        ),
        trainer=TrainerConfig(budget=20_000, eval_period=1_000),
    )


def acrobot() -> Experiment:
    """Double DQN on Acrobot-v1: -81 at the end on 5 seeds (worst -82); 100,000 steps in 85 s."""
    return Experiment(
        name="dqn/acrobot",
        data=ReplayData(
            env="Acrobot-v1",
            num_envs=8,
            num_steps=16,
            learning_starts=2_000,
            replay=ReplayConfig(capacity=100_000),
        ),
        module=DQNConfig(
            backbone=BackboneConfig("mlp", hidden=(128, 128)),
            optimizer=_adam(6.3e-4),
            batch_size=128,
            updates_per_env_step=1.0,
            target_tau=0.005,
            epsilon=EpsilonConfig(end=0.1, decay_steps=12_000),
        ),
        trainer=TrainerConfig(budget=100_000),
    )


def mountain_car() -> Experiment:
    """Double DQN with 3-step returns on MountainCar-v0: -99 at the end on 5 seeds (worst -102); 120,000 steps in 1 min.

    Random actions are held for 16 steps each: single ones cancel out and never bring the car up.
    """
    return Experiment(
        name="dqn/mountain-car",
        data=ReplayData(
            env="MountainCar-v0",
            num_envs=8,
            num_steps=64,
            learning_starts=2_000,
            replay=ReplayConfig(capacity=120_000, n_step=3),
        ),
        module=DQNConfig(
            backbone=BackboneConfig("mlp", hidden=(128, 128)),
            optimizer=_adam(1e-3),
            gamma=0.98,
            batch_size=128,
            target_tau=0.01,
            epsilon=EpsilonConfig(decay_steps=30_000, hold=16),
        ),
        trainer=TrainerConfig(budget=120_000),
    )


def lunar_lander() -> Experiment:
    """Double DQN on LunarLander-v3 (extra `box2d`): 240 at the end on 5 seeds (worst 208), 4 to 5 min of a core."""
    return Experiment(
        name="dqn/lunar-lander",
        data=ReplayData(
            env="LunarLander-v3",
            num_envs=8,
            num_steps=16,
            rounds=2,
            learning_starts=5_000,
            replay=ReplayConfig(capacity=500_000, n_step=5),
        ),
        module=DQNConfig(
            optimizer=_adam(1e-3),
            batch_size=128,
            updates_per_env_step=0.25,
            target_tau=0.005,
            loss="mse",
            epsilon=EpsilonConfig(end=0.1, decay_steps=50_000),
        ),
        trainer=TrainerConfig(budget=500_000),
    )


def frozen_lake() -> Experiment:
    """DQN on the slippery FrozenLake-v1, states as one-hot vectors: 0.71 at the end on one seed, in 30 s."""
    return Experiment(
        name="dqn/frozen-lake",
        data=ReplayData(
            env="FrozenLake-v1",
            num_envs=8,
            num_steps=16,
            learning_starts=1_000,
            replay=ReplayConfig(capacity=100_000),
        ),
        module=DQNConfig(
            backbone=BackboneConfig("mlp", hidden=(64,)),
            optimizer=_adam(1e-3),
            updates_per_env_step=0.25,
            epsilon=EpsilonConfig(end=0.1, decay_steps=40_000),
        ),
        trainer=TrainerConfig(budget=100_000),
    )


def cartpole_rainbow() -> Experiment:
    """Rainbow (all of DQN's extensions at once) on CartPole-v1: 500 at the end on one seed, in 42 s."""
    return Experiment(
        name="dqn/cartpole-rainbow",
        data=ReplayData(
            env="CartPole-v1",
            num_envs=8,
            num_steps=16,
            learning_starts=1_000,
            replay=ReplayConfig(capacity=100_000, n_step=5, priority=PriorityConfig(alpha=0.5)),
        ),
        module=DQNConfig(
            backbone=BackboneConfig("mlp", hidden=(128,)),
            head_hidden=(128,),
            dueling=True,
            noisy_sigma=0.5,
            returns=CategoricalConfig(num_atoms=51, v_min=0.0, v_max=200.0),
            optimizer=_adam(1e-3),
            gamma=0.995,
            updates_per_env_step=0.25,
            target_period=100,
            epsilon=_NEVER,
        ),
        trainer=TrainerConfig(budget=50_000),
    )


def pong() -> Experiment:
    """DQN on Pong with the Nature network and CleanRL's settings, for a GPU."""
    return _atari("pong", "ALE/Pong-v5", budget=2_000_000)


def breakout() -> Experiment:
    """DQN on Breakout with the Nature network and CleanRL's settings, for a GPU."""
    return _atari("breakout", "ALE/Breakout-v5", budget=10_000_000, life_loss=True)


def pong_rainbow() -> Experiment:
    """Rainbow on Pong at the paper's settings, for a GPU."""
    base = _atari("pong-rainbow", "ALE/Pong-v5", budget=2_000_000)
    assert isinstance(base.data, ReplayData)
    replay = base.data.replay.model_copy(update={"n_step": 3, "priority": PriorityConfig(alpha=0.5)})
    module = DQNConfig(
        backbone=BackboneConfig("nature_cnn"),
        head_hidden=(512,),
        dueling=True,
        noisy_sigma=0.5,
        returns=CategoricalConfig(),
        optimizer=OptimizerConfig(lr=6.25e-5, eps=1.5e-4, max_grad_norm=10.0),
        batch_size=32,
        updates_per_env_step=0.25,
        target_period=2_000,
        epsilon=_NEVER,
    )
    data = base.data.model_copy(update={"replay": replay, "learning_starts": 20_000})
    return base.model_copy(update={"data": data, "module": module})


def _atari(name: str, env: str, budget: int, life_loss: bool = False) -> Experiment:
    return Experiment(
        name=f"dqn/{name}",
        data=ReplayData(
            env=env,
            env_options={"repeat_action_probability": 0.0, "life_loss": life_loss},
            num_envs=8,
            num_steps=4,
            rounds=4,
            learning_starts=80_000,
            replay=ReplayConfig(capacity=1_000_000, frame_stack=True),
        ),
        module=DQNConfig(
            backbone=BackboneConfig("nature_cnn"),
            optimizer=OptimizerConfig(lr=1e-4),
            batch_size=32,
            updates_per_env_step=0.25,
            target_period=250,
            epsilon=EpsilonConfig(end=0.01, decay_steps=budget // 10),
        ),
        trainer=TrainerConfig(budget=budget),
    )


def _adam(lr: float) -> OptimizerConfig:
    return OptimizerConfig(lr=lr, max_grad_norm=10.0, schedule=ScheduleConfig(name="linear"))
