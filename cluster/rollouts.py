"""Weights and rollouts on their way between processes, and several rollouts as one.

T time steps, N environments, n of one actor.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from agents.types import Obs, Rollout

Array = np.ndarray[Any, Any]
_ALIGNMENT = 16  # bytes, so that any number may begin there


def flat(weights: Mapping[str, Tensor]) -> Array:
    """The bytes of all weights in a row: one buffer travels several times as fast as many small ones."""
    buffer = torch.zeros(sum(map(_room, weights.values())), dtype=torch.uint8)
    _copy(weights, buffer, into_buffer=True)
    return buffer.numpy()


def take_on(weights: Mapping[str, Tensor], sent: Array) -> None:
    """Write what `flat` made of the same names and shapes into these tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may be shared memory, which is read-only
        buffer = torch.from_numpy(sent)
    _copy(weights, buffer, into_buffer=False)


def _copy(weights: Mapping[str, Tensor], buffer: Tensor, into_buffer: bool) -> None:
    at = 0
    for value in weights.values():
        part = buffer[at : at + value.numel() * value.element_size()].view(value.dtype).view(value.shape)
        part.copy_(value) if into_buffer else value.copy_(part)
        at += _room(value)


def _room(value: Tensor) -> int:
    return -(-value.numel() * value.element_size() // _ALIGNMENT) * _ALIGNMENT


def arrays_of(rollout: Rollout) -> Rollout:
    """A rollout of arrays, which Ray sends without copies; tensors would each be packed like a file."""
    return _converted(rollout, Tensor, Tensor.numpy)


class _Packer(pickle.Pickler):
    """Packs tensors as arrays, which is ten times as fast."""

    def reducer_override(self, value: Any) -> Any:
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, Tensor) else NotImplemented


def packed(state: dict[str, Any]) -> bytes:
    """A collector's state as `pickle.loads` reads it."""
    buffer = io.BytesIO()
    _Packer(buffer, protocol=5).dump(state)
    return buffer.getvalue()


def rollout_of(arrays: Rollout) -> Rollout:
    """A rollout of arrays as one of tensors, which share their (read-only) memory until they are joined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _converted(arrays, np.ndarray, torch.from_numpy)


def _converted(rollout: Rollout, kind: type, convert: Any) -> Rollout:
    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: of(item) for key, item in value.items()}
        return convert(value) if isinstance(value, kind) else value

    return Rollout(*map(of, rollout))


def join(rollouts: Sequence[Rollout]) -> Rollout:
    """Rollouts (T, n) of several collectors as one (T, N), the shorter ones filled up with rows that are not valid."""
    longest = max(len(rollout.reward) for rollout in rollouts)

    def tensors(values: Sequence[Tensor]) -> Tensor:
        return torch.cat([_lengthened(value, longest) for value in values], 1)

    def obs(values: Sequence[Obs]) -> Obs:
        first = values[0]
        if isinstance(first, dict):
            return {key: tensors([value[key] for value in values]) for key in first}  # type: ignore[index]
        return tensors(values)  # type: ignore[arg-type]

    states = [rollout.first_state for rollout in rollouts if rollout.first_state is not None]
    names = ("action", "reward", "terminated", "truncated", "start", "valid")
    return Rollout(
        obs=obs([rollout.obs for rollout in rollouts]),
        next_obs=obs([rollout.next_obs for rollout in rollouts]),
        first_state=torch.cat(states, 1) if states else None,
        extras={key: tensors([rollout.extras[key] for rollout in rollouts]) for key in rollouts[0].extras},
        episodes=[episode for rollout in rollouts for episode in rollout.episodes],
        policy_version=min(rollout.policy_version for rollout in rollouts),
        **{name: tensors([getattr(rollout, name) for rollout in rollouts]) for name in names},
    )


def _lengthened(value: Tensor, num_steps: int) -> Tensor:
    missing = num_steps - len(value)
    return F.pad(value, [0, 0] * (value.dim() - 1) + [0, missing]) if missing else value
