"""PPO learns to do as it is told: dict observations, several discrete actions, clipped and squashed Gaussians."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.algorithms.ppo import PPOConfig
from agents.episodes import play_episodes
from agents.experience.data import OnPolicyData
from lab.backbones import BackboneConfig
from lab.engine.optimizers import OptimizerConfig


class ObeyEnv(gym.Env[Any, Any]):
    """One-step episodes. Discrete: say whether x > 0, and which k it is. Continuous: give 2 x."""

    observation_space = gym.spaces.Dict(
        {"x": gym.spaces.Box(-1, 1, (1,), np.float32), "k": gym.spaces.Discrete(3)},
    )

    def __init__(self, continuous: bool) -> None:
        self.continuous = continuous
        self.action_space = gym.spaces.Box(-2, 2, (1,), np.float32) if continuous else gym.spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.k = float(self.np_random.uniform(-1, 1)), int(self.np_random.integers(3))
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.continuous:
            assert self.action_space.contains(np.asarray(action, np.float32))
            reward = 1 - abs(float(action[0]) - 2 * self.x)
        else:
            reward = 0.5 * ((action[0] == 1) == (self.x > 0)) + 0.5 * (action[1] == self.k)
        return self._obs(), float(reward), True, False, {}

    def _obs(self) -> dict[str, Any]:
        return {"x": np.array([self.x], np.float32), "k": self.k}


for name, continuous in (("ObeyDiscrete-v0", False), ("ObeyContinuous-v0", True)):
    if name not in gym.registry:
        gym.register(name, entry_point=ObeyEnv, kwargs={"continuous": continuous})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "distribution", "backbone", "num_rounds"),
    [
        ("ObeyDiscrete-v0", "gaussian", "mlp", 15),
        ("ObeyContinuous-v0", "gaussian", "mlp", 30),
        ("ObeyContinuous-v0", "squashed_gaussian", "mlp", 30),
    ],
)
def test_ppo_learns_every_kind_of_action(env: str, distribution: Any, backbone: str, num_rounds: int) -> None:
    torch.manual_seed(0)
    data = OnPolicyData(env=env, num_envs=16, num_steps=32, rounds=1).build(seed=0)
    hidden: Any = (32,) if backbone == "mlp" else 32
    agent = PPOConfig(
        backbone=BackboneConfig(backbone, hidden=hidden),
        action_distribution=distribution,
        log_std_init=-0.5,
        optimizer=OptimizerConfig(lr=5e-3, max_grad_norm=0.5),
        minibatch_size=128,
        epochs=6,
        gamma=0.0,
    ).build(data.spec)
    agent.set_engine("auto")
    for _ in range(num_rounds):
        agent.training_step(data)
    agent.eval()
    returns = [episode.episode_return for episode in play_episodes(agent.policy, env, 100, seed=1)]
    assert np.mean(returns) > 0.9
