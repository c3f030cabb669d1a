"""An environment that takes 5 ms a step without using a processor, as a simulator on another machine would."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np


class Waiting(gymnasium.Env):
    """Four numbers, two actions, episodes of 200 steps."""

    observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.taken = 0
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(0.005)
        self.taken += 1
        return np.zeros(4, np.float32), 1.0, False, self.taken >= 200, {}


gymnasium.register("Waiting-v0", Waiting)
