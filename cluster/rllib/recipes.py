"""What RLlib's algorithms reach with the lab's networks."""

from __future__ import annotations

from agents.policies.exploration import EpsilonConfig
from cluster.rllib.agent import RLlibConfig
from cluster.rllib.experience import RLlibData
from cluster.rllib.settings import Option
from lab.backbones import BackboneConfig
from lab.experiment import Experiment, TrainerConfig

FAMILY = "rllib"


def ppo_cartpole() -> Experiment:
    """RLlib's PPO on CartPole-v1: 500 after 20,000 steps, 487 at the end of 100,000, which take 90 s (1 seed)."""
    options: dict[str, Option] = {
        "train_batch_size_per_learner": 1024,
        "minibatch_size": 256,
        "num_epochs": 10,
        "lambda_": 0.95,
        "vf_loss_coeff": 0.5,
        "clip_param": 0.2,
    }
    return _cartpole("ppo", RLlibConfig(algorithm="ppo", lr=1e-3, options=options), budget=100_000)


def appo_cartpole() -> Experiment:
    """RLlib's APPO on CartPole-v1: 400 from 150,000 steps on, 200,000 in 3 minutes (1 seed)."""
    options: dict[str, Option] = {"train_batch_size_per_learner": 512, "vf_loss_coeff": 0.5, "entropy_coeff": 0.005}
    return _cartpole("appo", RLlibConfig(algorithm="appo", lr=1e-3, options=options), budget=200_000)


def impala_cartpole() -> Experiment:
    """RLlib's IMPALA on CartPole-v1: 490 after 110,000 steps, lost again, 500 after 200,000; 3 minutes (1 seed)."""
    options: dict[str, Option] = {"train_batch_size_per_learner": 512, "vf_loss_coeff": 0.5, "entropy_coeff": 0.005}
    return _cartpole("impala", RLlibConfig(algorithm="impala", lr=1e-3, options=options), budget=200_000)


def dqn_cartpole() -> Experiment:
    """RLlib's DQN on CartPole-v1: 500 from 43,000 steps on, 50,000 in 9 minutes (1 seed, a busy core)."""
    module = RLlibConfig(
        algorithm="dqn",
        backbone=BackboneConfig("mlp", hidden=(256, 256)),
        lr=1e-3,
        max_grad_norm=10.0,
        epsilon=EpsilonConfig(end=0.04, decay_steps=8_000),
        options={
            "train_batch_size_per_learner": 64,
            "num_steps_sampled_before_learning_starts": 1_000,
            "target_network_update_freq": 200,
            "double_q": True,
        },
    )
    return _cartpole("dqn", module, budget=50_000)


def _cartpole(name: str, module: RLlibConfig, budget: int) -> Experiment:
    return Experiment(
        name=f"rllib/{name}-cartpole",
        data=RLlibData(env="CartPole-v1"),
        module=module,
        trainer=TrainerConfig(budget=budget),
    )
