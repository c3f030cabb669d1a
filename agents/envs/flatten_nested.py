"""Observations in tuples, in dicts of dicts and of several numbers (MultiDiscrete) as one flat dict of plain spaces.

Each leaf is named by its path: the tuple (a, {"b": c}) becomes {"0": a, "1.b": c}.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import getitem
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

_Path = tuple[Any, ...]


class FlatDict(gym.ObservationWrapper[dict[str, Any], Any, Any]):
    """An environment whose observations are a flat dict."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        leaves = {".".join(map(str, path)): (path, space) for path, space in _leaves(env.observation_space)}
        self.paths = {name: path for name, (path, _) in leaves.items()}
        self.observation_space = spaces.Dict({name: space for name, (_, space) in leaves.items()})

    def observation(self, observation: Any) -> dict[str, Any]:
        return {name: reduce(getitem, path, observation) for name, path in self.paths.items()}


def without_nesting(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The environment itself where its observations are plain or a dict of plain ones, otherwise with a flat dict."""
    space = env.observation_space
    parts = list(space.values()) if isinstance(space, spaces.Dict) else [space]
    nested = any(isinstance(part, spaces.Dict | spaces.Tuple | spaces.MultiDiscrete) for part in parts)
    return FlatDict(env) if nested else env


def _leaves(space: gym.Space[Any], path: _Path = ()) -> Iterator[tuple[_Path, gym.Space[Any]]]:
    """The plain spaces in a space, in order, each with the keys that lead to it."""
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            yield from _leaves(part, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for i, part in enumerate(space):
            yield from _leaves(part, (*path, i))
    elif isinstance(space, spaces.MultiDiscrete):
        for index in np.ndindex(space.shape):
            yield (*path, *index), spaces.Discrete(int(space.nvec[index]), start=int(space.start[index]))
    else:
        yield path, space
