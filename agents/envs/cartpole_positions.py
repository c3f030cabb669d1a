"""CartPole without velocities: positions alone, so that a policy must remember.

Registered with gymnasium as CartPolePositions-v1, plain and vectorised.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.vector.utils import batch_space

ENV_ID = "CartPolePositions-v1"
FROM_GYMNASIUM = "gym.wrappers.TransformObservation(gym.make('CartPole-v1'{options}), lambda obs: obs[[0, 2]], None)"
"""an expression for one such environment that needs gymnasium alone"""

_POSITIONS = [0, 2]  # of (cart position, cart velocity, pole angle, pole angular velocity)


def _positions(space: gym.Space[Any]) -> gym.spaces.Box:
    assert isinstance(space, gym.spaces.Box)
    return gym.spaces.Box(space.low[_POSITIONS], space.high[_POSITIONS], dtype=np.float32)


class PositionsCartPole(CartPoleEnv):
    """One environment."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.observation_space = _positions(self.observation_space)

    def reset(self, **options: Any) -> Any:
        obs, info = super().reset(**options)
        return obs[_POSITIONS], info

    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        return obs[_POSITIONS], *rest


class PositionsCartPoleVector(CartPoleVectorEnv):
    """N environments side by side."""

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        super().__init__(num_envs, **options)
        self.single_observation_space = _positions(self.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def reset(self, **options: Any) -> Any:
        obs, info = super().reset(**options)
        return np.ascontiguousarray(obs[:, _POSITIONS]), info

    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        return np.ascontiguousarray(obs[:, _POSITIONS]), *rest


gym.register(
    ENV_ID,
    entry_point=f"{__name__}:PositionsCartPole",
    vector_entry_point=f"{__name__}:PositionsCartPoleVector",
    max_episode_steps=500,
)
