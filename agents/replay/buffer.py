"""Experience replay (Lin 1992; Mnih et al. 2015), uniform or prioritized (Schaul et al. 2016), with n-step returns
(Sutton 1988) folded in as their windows fill.

A ring of rows, one row for each step of all N environments. A row can be drawn once its n-step window is whole: n rows
on, or at its episode's end. An index is slot * N + environment. T time steps, L of a sequence, B batch, K minibatches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from agents.replay.observation_store import make_store
from agents.replay.priorities import Priorities, PriorityConfig
from agents.replay.ring import PackedRings, Rows, empty_ring
from agents.returns import cut_before_starts, n_step_returns
from agents.types import Rollout, Sequences, Transition
from lab.data.spec import Continuous, DataSpec, MultiDiscrete
from lab.errors import UserError
from lab.experiment import Config, Shared

_STEP = ("action", "reward", "terminated", "truncated", "start")
_WINDOW_SUMS: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    "return": ((), torch.float32),  # the n-step discounted sum
    "discount": ((), torch.float32),  # of the value at its end
    "steps": ((), torch.int32),  # rows from the first to the last of the window
}


class ReplayConfig(Config):
    """A replay buffer."""

    capacity: Annotated[PositiveInt, Shared("rounded")] = 100_000
    """transitions kept"""
    n_step: PositiveInt = 1
    """rewards summed before bootstrapping"""
    priority: PriorityConfig | None = None
    """draw by TD error instead of uniformly"""
    frame_stack: bool = False
    """image observations are stacks of successive frames: keep each frame once"""


class ReplayBuffer:
    """Replay of whole rollouts from `num_envs` environments of a spec, on `device`."""

    def __init__(
        self, config: ReplayConfig, gamma: float, spec: DataSpec, num_envs: int, seed: int, device: torch.device
    ) -> None:
        """Raises UserError when observations cannot be stored as configured."""
        self.config, self.gamma, self.num_envs, self.device = config, gamma, num_envs, device
        self.num_rows = max(config.capacity // num_envs, config.n_step + 1)
        self.num_slots = self.num_rows * num_envs
        self.generator = torch.Generator(device).manual_seed(seed)
        self._store = make_store(self.num_rows, num_envs, spec.inputs, frame_stack=config.frame_stack, device=device)
        self._valid = empty_ring(self.num_rows, (num_envs,), torch.bool, device)
        self._is_valid = Rows(self._valid.data.view(-1))
        self._rows = PackedRings(self.num_rows, num_envs, _fields(spec, config.n_step), device)
        observations = {f"obs.{name}": ring for name, ring in self._store.rings.items()}
        self.rings = {**self._rows.rings, "valid": self._valid, **observations}
        """everything stored, by name"""
        self._discounts = torch.zeros((), device=device), torch.full((), gamma, device=device)
        """of the value after a step that ended an episode, and after any other"""
        self._oldest = 0
        self.priorities = None if config.priority is None else Priorities(config.priority, self.num_slots)

    @property
    def rows_written(self) -> int:
        """Rows that were ever appended."""
        return self._valid.num_written

    def __len__(self) -> int:
        """Transitions whose n-step window is whole (those that only reset an environment included)."""
        return max(0, self._num_whole - self._oldest) * self.num_envs

    @property
    def _num_whole(self) -> int:
        """Rows that were ever appended and whose window is whole."""
        return max(0, self.rows_written - self.config.n_step + 1)

    def extend(self, rollout: Rollout) -> None:
        """Append a rollout. Raises UserError when it is longer than the buffer."""
        num_steps = rollout.reward.shape[0]
        if num_steps + self.config.n_step - 1 > self.num_rows:
            raise UserError(
                f"data.replay.capacity={self.config.capacity} is less than one rollout: "
                f"{num_steps} steps of {self.num_envs} environments with {self.config.n_step}-step returns."
            )
        self._store.append(rollout.obs, rollout.next_obs, rollout.start)
        for name in _STEP:
            self.rings[name].append(getattr(rollout, name))
        first = self._num_whole
        self._valid.append(rollout.valid)
        self._drop_oldest()
        self._sum_windows(first)

    def sample(self, batch_size: int, num_batches: int, beta: float = 1.0) -> Transition:
        """K batches at once (K, B, ...), drawn with replacement from the valid transitions.

        Args:
            beta: the exponent of the importance weights; without priorities all weights are 1.
        """
        if self.priorities is None:
            index = self._draw(num_batches * batch_size).view(num_batches, batch_size)
            weight = torch.ones((), device=self.device).expand(num_batches, batch_size)
        else:
            shape = (num_batches, batch_size)
            uniform = torch.rand(shape, generator=self.generator, device=self.device, dtype=torch.float64)
            index, weight = self.priorities.draw(uniform, beta)
        if self.config.n_step == 1:
            row, last = self._rows.take(index, ("action", "reward", "terminated")), index
            reward, discount = row["reward"], torch.where(row["terminated"], *self._discounts)
        else:
            row = self._rows.take(index, ("action", *_WINDOW_SUMS))
            reward, discount = row["return"], row["discount"]
            last = (index + row["steps"] * self.num_envs).remainder_(self.num_slots)
        return Transition(
            obs=self._store.obs(index),
            action=row["action"],
            reward=reward,
            discount=discount,
            next_obs=self._store.next_obs(last),
            weight=weight,
            indices=index,
        )

    def sample_sequences(self, batch_size: int, length: int) -> Sequences:
        """B stretches of `length` successive rows (L, B, ...), wherever they begin, with replacement.

        There must be that many rows.
        """
        num_starts = self.rows_written - self._oldest - length + 1
        assert num_starts > 0
        first = torch.randint(num_starts * self.num_envs, (batch_size,), generator=self.generator, device=self.device)
        steps = torch.arange(length, device=self.device)[:, None] * self.num_envs
        index = (first + steps + self._oldest * self.num_envs) % self.num_slots  # (L, B)
        rows = self._rows.take(index, _STEP) | {"valid": self._is_valid.take(index)}
        rows["truncated"] = cut_before_starts(*(rows[name] for name in ("terminated", "truncated", "start", "valid")))
        return Sequences(obs=self._store.obs(index), next_obs=self._store.next_obs(index), **rows)

    def update_priorities(self, index: Tensor, td_error: Tensor) -> None:
        """Set the priorities of drawn transitions (B,) by their TD errors (B,)."""
        assert self.priorities is not None
        self.priorities.update(index, td_error)

    def state_dict(self) -> dict[str, Any]:
        """All but what the rings hold: random state, oldest row, priorities."""
        state: dict[str, Any] = {"generator": self.generator.get_state(), "oldest": self._oldest}
        return state if self.priorities is None else state | self.priorities.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; the rings are filled apart (agents/replay/files.py)."""
        self.generator.set_state(state["generator"].cpu())
        self._oldest = state["oldest"]
        if self.priorities is not None:
            self.priorities.load_state_dict(state)

    @property
    def in_columns(self) -> bool:
        """Whether every ring is (R, N, ...), so that its environments can be divided among other ranks."""
        return all(ring.data.shape[1:2] == (self.num_envs,) for ring in self.rings.values())

    def take_over(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on with rings filled from other ranks' buffers of these states; all priorities are the highest again."""
        self._oldest = max(self.rows_written - self.num_rows, *(state["oldest"] for state in states))
        if self.priorities is not None:
            self.priorities.largest = max(state["max_priority"] for state in states)
        self._make_drawable(self._oldest, self._num_whole)

    def _drop_oldest(self) -> None:
        """Advance the oldest row to the first that is still whole."""
        before = self._oldest
        self._oldest = self._store.oldest_row(max(before, self.rows_written - self.num_rows))
        if self.priorities is not None and self._oldest > before:
            self.priorities.remove(self._indices(before, self._oldest))

    def _sum_windows(self, first: int) -> None:
        """Make the rows from `first` on drawable whose windows the last rows completed: sum their windows' rewards."""
        end = self._num_whole
        if end <= first:
            return
        if self.config.n_step > 1:
            reward, terminated, truncated, start, valid = (
                self.rings[name].read(first, self.rows_written)
                for name in ("reward", "terminated", "truncated", "start", "valid")
            )
            cut = cut_before_starts(terminated, truncated, start, valid)
            window_sums = n_step_returns(reward, terminated, cut, self.gamma, self.config.n_step)
            for name, values in zip(_WINDOW_SUMS, window_sums, strict=True):
                self.rings[name].append(values)
        self._make_drawable(first, end)

    def _make_drawable(self, first_row: int, last_row: int) -> None:
        """Give the transitions in the rows [first_row, last_row) the highest priority."""
        if self.priorities is not None:
            valid = self._valid.read(first_row, last_row).flatten().cpu().numpy()
            self.priorities.add(self._indices(first_row, last_row), valid)

    def _indices(self, first_row: int, last_row: int) -> np.ndarray[Any, Any]:
        """Indices of all transitions in the rows [first_row, last_row)."""
        return np.arange(first_row * self.num_envs, last_row * self.num_envs) % self.num_slots

    def _draw(self, num: int) -> Tensor:
        """Indices (num,) of valid transitions, all equally likely."""
        parts: list[Tensor] = []
        num_whole, first = len(self), self._oldest * self.num_envs % self.num_slots
        while num:  # rows that only reset are drawn again
            index = torch.randint(num_whole, (num,), generator=self.generator, device=self.device)
            if first and num_whole < self.num_slots:  # else every slot holds one
                index = index.add_(first).remainder_(self.num_slots)
            valid = self._is_valid.take(index)
            if not bool(valid.all()):
                index = index[valid]
            parts.append(index)
            num -= len(index)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _fields(spec: DataSpec, n_step: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """The fields of a row beside observations; with n_step=1 the window's sum is the reward itself."""
    fields = {
        "action": _action_field(spec),
        "reward": ((), torch.float32),
        "terminated": ((), torch.bool),
        "truncated": ((), torch.bool),
        "start": ((), torch.bool),
    }
    return fields | _WINDOW_SUMS if n_step > 1 else fields


def _action_field(spec: DataSpec) -> tuple[tuple[int, ...], torch.dtype]:
    if isinstance(spec.actions, MultiDiscrete):
        return (len(spec.actions.nums),), torch.int64
    if isinstance(spec.actions, Continuous):
        return (spec.actions.num,), torch.float32
    return (), torch.int64
