"""Pictures as environments give them, (H, W, C), as networks take them, (C, H, W)."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

_CHANNELS = (1, 3, 4)
"""grey, in colour, in colour with transparency"""


class ChannelsFirst(gym.ObservationWrapper[Any, Any, Any]):
    """An environment whose pictures, alone or in a flat dict, are (C, H, W)."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        space = env.observation_space
        if isinstance(space, spaces.Dict):
            self.observation_space = spaces.Dict({key: _transposed(part) for key, part in space.items()})
        else:
            self.observation_space = _transposed(space)
        self._last = tuple(_names_of(space))

    def observation(self, observation: Any) -> Any:
        if None in self._last:
            return np.moveaxis(observation, -1, -3)
        return {key: np.moveaxis(o, -1, -3) if key in self._last else o for key, o in observation.items()}


def channels_first(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The environment itself where it gives no picture (H, W, C)."""
    return ChannelsFirst(env) if _names_of(env.observation_space) else env


def is_channels_last(space: gym.Space[Any]) -> bool:
    """Whether a space is of pictures (H, W, C): few channels, and more pixels than that in both directions."""
    shape = space.shape if isinstance(space, spaces.Box) else ()
    return len(shape) == 3 and shape[2] in _CHANNELS and min(shape[:2]) > max(_CHANNELS)


def _names_of(space: gym.Space[Any]) -> set[str | None]:
    """The keys of such pictures in a flat dict, or None for the one that is everything."""
    if isinstance(space, spaces.Dict):
        return {key for key, part in space.items() if is_channels_last(part)}
    return {None} if is_channels_last(space) else set()


def _transposed(space: gym.Space[Any]) -> gym.Space[Any]:
    if not is_channels_last(space):
        return space
    assert isinstance(space, spaces.Box)
    return spaces.Box(np.moveaxis(space.low, -1, 0), np.moveaxis(space.high, -1, 0), dtype=space.dtype.type)  # type: ignore[arg-type, union-attr]
