"""Weights and rollouts on their way between processes, and several rollouts as one.

T time steps, N environments, n of one actor.
"""

from __future__ import annotations

import io
import pickle
import traceback
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.types import Rollout
from lab.engine.torch_private import foreach_copy_
from lab.errors import Failure, UserError

Array = np.ndarray[Any, Any]
PackedWeights = Array | bytes
"""what `Parcel.pack` makes, out of the object store or as it came with a request"""
SMALL_BYTES = 90 * 2**10
"""what a message carries; from 100 KiB on Ray takes it through the object store, which costs 2 ms more"""
_ALIGNMENT = 16  # bytes, so that any number may begin there


class Parcel:
    """The bytes of all weights in a row: one buffer travels several times as fast as many small ones."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """For weights of these types and shapes."""
        sizes = [value.numel() * value.element_size() for value in weights.values()]
        rooms = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
        ends = list(accumulate(rooms, initial=0))
        buffer = torch.zeros(ends[-1], dtype=torch.uint8)
        self._bytes = buffer.numpy()
        self._parts = [
            buffer[at : at + size].view(value.dtype).view(value.shape)
            for at, size, value in zip(ends, sizes, weights.values(), strict=False)
        ]

    def pack(self, weights: Mapping[str, Tensor]) -> Array:
        """The weights' bytes, in memory that the next call writes over."""
        foreach_copy_(self._parts, list(weights.values()))
        return self._bytes

    def unpack(self, message: PackedWeights, weights: Mapping[str, Tensor]) -> None:
        """Copy what another process has packed into these tensors, which keep their places in memory."""
        self._bytes[:] = np.frombuffer(message, np.uint8)
        foreach_copy_(list(weights.values()), self._parts)


class _Packer(pickle.Pickler):
    """Packs tensors as arrays, which is ten times as fast."""

    def reducer_override(self, value: Any) -> Any:
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, Tensor) else NotImplemented


def packed(state: dict[str, Any]) -> bytes:
    """A collector's state as `pickle.loads` reads it."""
    buffer = io.BytesIO()
    _Packer(buffer, protocol=5).dump(state)
    return buffer.getvalue()


def portable(error: Exception) -> Exception:
    """An error as another process can raise it, which may lack the module of its class, or a way to pack it."""
    if isinstance(error, UserError | Failure) or type(error).__module__ == "builtins":
        return error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:300]
    return Failure(
        f"a collector raised {type(error).__name__}: {text} ({Path(frame.filename).name}, line {frame.lineno})"
    )


def reply(rollout: Rollout, state: bytes) -> bytes | tuple[Rollout, bytes]:
    """A rollout and its collector's state as they travel: small ones in one piece, which spares Ray its work for each
    array; large ones as arrays, which Ray shares without a copy. (Tensors would each be packed like a file.)"""
    arrays = _mapped(Tensor.numpy, rollout)
    if len(state) + sum(array.nbytes for array in _arrays_in(arrays)) > SMALL_BYTES:
        return arrays, state
    return pickle.dumps((arrays, state), 5)


def opened(reply: bytes | tuple[Rollout, bytes]) -> tuple[Rollout, bytes]:
    """What `reply` was made of. The rollout is of arrays, which may be shared memory: `join` makes tensors of them."""
    parts: tuple[Rollout, bytes] = pickle.loads(reply) if isinstance(reply, bytes) else reply
    return parts


def join(rollouts: Sequence[Rollout]) -> Rollout:
    """Rollouts (T, n) of several collectors as one (T, N), the shorter ones filled up with rows that are not valid."""
    longest = max(len(rollout.reward) for rollout in rollouts)
    stepped = [rollout._replace(first_state=None) for rollout in rollouts]
    states = [rollout.first_state for rollout in rollouts if rollout.first_state is not None]
    return _mapped(lambda *parts: _side_by_side([_lengthened(part, longest) for part in parts]), *stepped)._replace(
        first_state=_side_by_side(states) if states else None,
        episodes=[episode for rollout in rollouts for episode in rollout.episodes],
        policy_version=min(rollout.policy_version for rollout in rollouts),
    )


def _side_by_side(parts: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts, 1))


def _lengthened(value: Any, num_steps: int) -> Array:
    missing = num_steps - len(value)
    return np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1)) if missing else value


def _mapped(function: Callable[..., Any], *rollouts: Rollout) -> Rollout:
    """A rollout of what a function makes of the arrays (or tensors) in the same place of each; the rest as it is."""

    def of(*values: Any) -> Any:
        if isinstance(values[0], dict):
            return {key: of(*(value[key] for value in values)) for key in values[0]}
        return function(*values) if isinstance(values[0], np.ndarray | Tensor) else values[0]

    return Rollout(*map(of, *rollouts))


def _arrays_in(rollout: Rollout) -> list[Array]:
    values: list[Any] = [part for value in rollout for part in (value.values() if isinstance(value, dict) else [value])]
    return [value for value in values if isinstance(value, np.ndarray)]
