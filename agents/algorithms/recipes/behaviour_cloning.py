"""Recipes of behaviour cloning."""

from __future__ import annotations

from typing import Any

from agents.algorithms.behaviour_cloning import BehaviourCloningConfig
from agents.play.demonstrations import DemonstrationData
from lab.backbones import BackboneConfig
from lab.experiment import Experiment, TrainerConfig

FAMILY = "bc"


def _cloning(name: str, env: str, budget: int, backbone: BackboneConfig | None = None, **data: Any) -> Experiment:
    module = BehaviourCloningConfig() if backbone is None else BehaviourCloningConfig(backbone=backbone)
    if backbone is not None:  # pictures are scaled already
        module = module.model_copy(update={"normalize_obs": False})
    return Experiment(
        name=name,
        data=DemonstrationData(env=env, **data),
        module=module,
        trainer=TrainerConfig(budget=budget),
    )


def cartpole() -> Experiment:
    """Behaviour cloning on CartPole-v1 from episodes in `data.path`."""
    return _cloning("bc/cartpole", "CartPole-v1", 200_000)


def acrobot() -> Experiment:
    """Behaviour cloning on Acrobot-v1 from episodes in `data.path`."""
    return _cloning("bc/acrobot", "Acrobot-v1", 200_000)


def mountain_car() -> Experiment:
    """Behaviour cloning on MountainCar-v0 from episodes in `data.path`."""
    return _cloning("bc/mountain-car", "MountainCar-v0", 200_000)


def pendulum() -> Experiment:
    """Behaviour cloning on Pendulum-v1, continuous torques, from episodes in `data.path`."""
    return _cloning("bc/pendulum", "Pendulum-v1", 400_000)


def lunar_lander() -> Experiment:
    """Behaviour cloning on LunarLander-v3 from episodes in `data.path` (needs the extra `box2d`)."""
    return _cloning("bc/lunar-lander", "LunarLander-v3", 400_000)


def pong() -> Experiment:
    """Behaviour cloning on Pong from frames and episodes in `data.path` (needs the extra `atari`)."""
    return _cloning("bc/pong", "ALE/Pong-v5", 400_000, BackboneConfig("nature_cnn"), batches_per_step=4)
