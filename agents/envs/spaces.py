"""Gymnasium's spaces: their specs, and how observations and actions get from one form to the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from lab.data.spec import Continuous, DataSpec, Discrete, MultiDiscrete, TensorSpec
from lab.errors import UserError

Array = np.ndarray[Any, Any]
ObsArray = Array | dict[str, Array]


def spec_of(observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> DataSpec:
    """The spec of gymnasium spaces. Raises UserError for spaces that the lab does not take."""
    inputs: TensorSpec | dict[str, TensorSpec]
    if isinstance(observation_space, spaces.Dict):
        inputs = {key: _tensor_spec(space) for key, space in observation_space.spaces.items()}
    else:
        inputs = _tensor_spec(observation_space)
    if isinstance(action_space, spaces.Discrete):
        return DataSpec(inputs, actions=Discrete(int(action_space.n)))
    if isinstance(action_space, spaces.MultiDiscrete):
        return DataSpec(inputs, actions=MultiDiscrete(tuple(int(n) for n in action_space.nvec.ravel())))
    if isinstance(action_space, spaces.MultiBinary):
        return DataSpec(inputs, actions=MultiDiscrete((2,) * math.prod(action_space.shape)))
    if isinstance(action_space, spaces.Box):
        low, high = action_space.low.ravel(), action_space.high.ravel()
        return DataSpec(inputs, actions=Continuous(tuple(map(float, low)), tuple(map(float, high))))
    choices = "Discrete, MultiDiscrete, MultiBinary, Box"
    raise UserError(f"action space {action_space} is not supported. Valid choices: {choices}.")


def reader(space: gym.Space[Any]) -> Callable[[Any], ObsArray]:
    """From many observations of an environment to arrays of its spec, whatever its own are; discrete ones from 0 on."""
    if isinstance(space, spaces.Dict):
        readers = {key: reader(part) for key, part in space.spaces.items()}
        return lambda obs: {key: read(obs[key]) for key, read in readers.items()}  # type: ignore[misc]
    dtype = array_dtype(_tensor_spec(space))
    start = getattr(space, "start", 0)
    if isinstance(space, spaces.Box) and not space.shape:
        return lambda obs: np.asarray(obs, dtype).reshape(-1, 1)
    return (lambda obs: np.asarray(obs, dtype) - start) if start else (lambda obs: np.asarray(obs, dtype))


def array_dtype(spec: TensorSpec) -> np.dtype[Any]:
    """The type of arrays of a spec."""
    return torch.empty(0, dtype=spec.dtype).numpy().dtype


def writer(space: gym.Space[Any]) -> Callable[[Array], Array]:
    """From actions (N,) or (N, A) as policies give them to an environment's: of its shape, counted from its start."""
    start, shape = getattr(space, "start", 0), space.shape or ()
    if len(shape) != 1 and not isinstance(space, spaces.Discrete):
        return lambda actions: actions.reshape(-1, *shape) + start
    return (lambda actions: actions + start) if np.any(start) else (lambda actions: actions)


def _tensor_spec(space: gym.Space[Any]) -> TensorSpec:
    if isinstance(space, spaces.Box):
        dtype = torch.uint8 if space.dtype == np.uint8 else torch.float32
        if len(space.shape) < 3 and not np.can_cast(np.dtype(space.dtype), np.float32):
            dtype = torch.float64  # normalisation may need every digit; pictures do not
        return TensorSpec(tuple(space.shape) or (1,), dtype, float(np.min(space.low)), float(np.max(space.high)))
    if isinstance(space, spaces.Discrete):
        return TensorSpec((), torch.int64, 0, float(int(space.n) - 1))
    if isinstance(space, spaces.MultiBinary):
        return TensorSpec(tuple(space.shape), torch.float32, 0.0, 1.0)
    choices = "Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple"
    raise UserError(f"observation space {space} is not supported. Valid choices: {choices}.")
