"""Where a replay buffer keeps observations: rings of rows, one row for each step of all N environments.

T time steps, N environments, R rows, S frames of a stack, F frames kept. An index is slot * N + environment; a tensor
of indices may have any shape, written (...).
"""

from __future__ import annotations

import itertools
import math
from typing import Protocol

import torch
from torch import Tensor

from agents.replay.ring import Ring, Rows, empty_ring
from agents.types import Obs
from lab.data.spec import TensorSpec
from lab.errors import UserError

_SPARE_FRAMES = 0.01
"""room for the frames that starts of episodes add, as a share of the capacity"""


class ObservationStore(Protocol):
    """Rows of observations and of their successors."""

    rings: dict[str, Ring]
    """everything that it holds, by name"""

    def append(self, obs: Obs, next_obs: Obs, start: Tensor) -> None:
        """Store T rows (T, N, ...); `start` (T, N) marks observations that begin an episode."""

    def oldest_row(self, oldest: int) -> int:
        """The first of the rows from `oldest` on that is still whole."""

    def obs(self, index: Tensor) -> Obs:
        """Observations (..., *obs)."""

    def next_obs(self, index: Tensor) -> Obs:
        """Their successors (..., *obs)."""


def make_store(
    num_rows: int,
    num_envs: int,
    inputs: TensorSpec | dict[str, TensorSpec],
    *,
    frame_stack: bool,
    device: torch.device,
) -> ObservationStore:
    """A store for observations of a spec. Raises UserError when `frame_stack` does not fit them."""
    if isinstance(inputs, dict):
        stores = {
            key: make_store(num_rows, num_envs, spec, frame_stack=frame_stack and len(spec.shape) == 3, device=device)
            for key, spec in inputs.items()
        }
        return DictStore(stores)
    if not frame_stack:
        return ArrayStore(num_rows, num_envs, inputs, device)
    if len(inputs.shape) != 3 or inputs.shape[0] < 2:
        raise UserError(
            f"data.replay.frame_stack=true needs stacks (frames, height, width), not observations {inputs.shape}."
        )
    return FrameStore(num_rows, num_envs, inputs, device)


class ArrayStore:
    """Observations and successors."""

    def __init__(self, num_rows: int, num_envs: int, spec: TensorSpec, device: torch.device) -> None:
        self.rings = {
            name: empty_ring(num_rows, (num_envs, *spec.shape), spec.dtype, device) for name in ("obs", "next_obs")
        }
        self._obs, self._next_obs = (Rows(ring.data.flatten(0, 1)) for ring in self.rings.values())

    def append(self, obs: Obs, next_obs: Obs, start: Tensor) -> None:
        assert isinstance(obs, Tensor)
        assert isinstance(next_obs, Tensor)
        self.rings["obs"].append(obs)
        self.rings["next_obs"].append(next_obs)

    def oldest_row(self, oldest: int) -> int:
        return oldest

    def obs(self, index: Tensor) -> Tensor:
        return self._obs.take(index)

    def next_obs(self, index: Tensor) -> Tensor:
        return self._next_obs.take(index)


class FrameStore:
    """Stacks of frames (S, H, W), each frame kept once.

    A step adds one frame, the newest of its successor; an episode's start adds those of its stack that are not there
    yet. A row names S + 1 frames by their numbers: those of the observation, and the newest of the successor. Where
    starts need more frames than there is room for, the oldest rows lose theirs and are given up early.
    """

    def __init__(self, num_rows: int, num_envs: int, spec: TensorSpec, device: torch.device) -> None:
        self._stack, height, width = spec.shape
        num_frames = math.ceil(num_rows * num_envs * (1 + _SPARE_FRAMES)) + 2 * self._stack * num_envs
        self._frames = empty_ring(num_frames, (height, width), spec.dtype, device)
        self._names = empty_ring(num_rows, (num_envs, self._stack + 1), torch.int64, device)
        self._oldest_name = empty_ring(num_rows, (), torch.int64, torch.device("cpu"))
        self.rings = {"frames": self._frames, "names": self._names, "oldest_name": self._oldest_name}
        self._pictures, self._names_of = Rows(self._frames.data), Rows(self._names.data.flatten(0, 1))

    def append(self, obs: Obs, next_obs: Obs, start: Tensor) -> None:
        assert isinstance(obs, Tensor)
        assert isinstance(next_obs, Tensor)
        if not torch.equal(obs[0, :, 1:], next_obs[0, :, :-1]) and not start.any():
            raise UserError("data.replay.frame_stack=true, but the observations are no stacks of successive frames.")
        starts = [0, *(start[1:].any(1).nonzero().flatten() + 1).tolist(), len(start)]
        for first, end in itertools.pairwise(starts):
            self._append(obs[first], next_obs[first:end, :, -1], start[first])

    def _append(self, obs: Tensor, newest: Tensor, start: Tensor) -> None:
        """Store L rows, of which the first alone may start an episode; obs (N, S, H, W) of it, newest (L, N, H, W)."""
        current = self._current(obs, start)  # (N, S)
        added = self._add(newest.flatten(0, 1)).view(newest.shape[:2])  # (L, N)
        names = torch.cat([current.T, added]).unfold(0, self._stack + 1, 1)  # (L, N, S + 1)
        self._names.append(names.to(self._names.data.device))
        self._oldest_name.append(names.amin((1, 2)))

    def oldest_row(self, oldest: int) -> int:
        while oldest < self._names.num_written:
            if self._oldest_name.data[oldest % self._oldest_name.capacity] >= self._frames.oldest:
                break
            oldest += 1
        return oldest

    def obs(self, index: Tensor) -> Tensor:
        return self._stacks(self._names_of.take(index)[..., :-1])

    def next_obs(self, index: Tensor) -> Tensor:
        return self._stacks(self._names_of.take(index)[..., 1:])

    def _stacks(self, names: Tensor) -> Tensor:
        """(..., S) -> (..., S, H, W)."""
        return self._pictures.take(names % self._frames.capacity)

    def _current(self, obs: Tensor, start: Tensor) -> Tensor:
        """Names (N, S) of the frames of `obs` (N, S, H, W): the last successors', but for episodes that start."""
        rows = self._names.num_written
        if rows == 0:
            return torch.stack([self._add_stack(stack) for stack in obs])
        current = self._names.read(rows - 1, rows)[0, :, 1:].cpu()
        if start.any():
            current = current.clone()
            for env in start.nonzero().flatten().tolist():
                if not torch.equal(
                    self._stacks(current[env : env + 1].to(self._frames.data.device))[0].cpu(), obs[env]
                ):
                    current[env] = self._add_stack(obs[env])
        return current

    def _add_stack(self, stack: Tensor) -> Tensor:
        """Store a stack (S, H, W), neighbours that are equal once; returns names (S,)."""
        fresh = torch.tensor([True, *((a != b).any() for a, b in zip(stack[1:], stack, strict=False))])
        names = self._add(stack[fresh])
        return names[fresh.cumsum(0) - 1]

    def _add(self, frames: Tensor) -> Tensor:
        """Store frames (M, H, W); returns names (M,)."""
        first = self._frames.num_written
        self._frames.append(frames)
        return torch.arange(first, first + len(frames))


class DictStore:
    """One store for each key."""

    def __init__(self, stores: dict[str, ObservationStore]) -> None:
        self._stores = stores
        self.rings = {f"{key}.{name}": ring for key, store in stores.items() for name, ring in store.rings.items()}

    def append(self, obs: Obs, next_obs: Obs, start: Tensor) -> None:
        assert isinstance(obs, dict)
        assert isinstance(next_obs, dict)
        for key, store in self._stores.items():
            store.append(obs[key], next_obs[key], start)

    def oldest_row(self, oldest: int) -> int:
        return max(store.oldest_row(oldest) for store in self._stores.values())

    def obs(self, index: Tensor) -> Obs:
        return {key: store.obs(index) for key, store in self._stores.items()}  # type: ignore[misc]

    def next_obs(self, index: Tensor) -> Obs:
        return {key: store.next_obs(index) for key, store in self._stores.items()}  # type: ignore[misc]
