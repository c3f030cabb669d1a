"""Observations as arrays and as tensors, plain or dicts of them. T time steps, N environments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agents.envs.spaces import Array, ObsArray
from agents.types import Obs


def as_tensor(obs: ObsArray, device: torch.device | None = None) -> Obs:
    """An observation array as a tensor, or a dict of them."""
    if isinstance(obs, dict):
        return {key: torch.from_numpy(value).to(device) for key, value in obs.items()}
    return torch.from_numpy(obs) if device is None or device.type == "cpu" else torch.from_numpy(obs).to(device)


def copied_tensor(obs: ObsArray) -> Any:
    """A copy of an observation array as a tensor, or a dict of them."""
    if isinstance(obs, dict):
        return {key: copied_tensor(value) for key, value in obs.items()}
    return torch.from_numpy(obs.copy())


def copied_array(obs: Any) -> ObsArray:
    """A copy of an observation tensor as an array, or a dict of them."""
    if isinstance(obs, dict):
        return {key: value.numpy().copy() for key, value in obs.items()}
    array: Array = obs.numpy().copy()
    return array


def clear_state(state: Tensor | None, start: Array) -> Tensor | None:
    """A recurrent state (S, N, F), cleared for environments whose episode starts (N,)."""
    if state is None or not start.any():
        return state
    return state * torch.from_numpy(~start).to(state)[None, :, None]
