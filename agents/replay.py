"""Experience replay (Lin 1992; Mnih et al. 2015), uniform or prioritized (Schaul et al. 2016), with n-step returns
(Sutton 1988) folded in as their windows fill.

A ring of rows, one row for each step of all N environments. A row can be drawn once its n-step window is whole: n rows
on, or at its episode's end. An index is slot * N + environment. T time steps, B batch, K minibatches, R rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from agents.observation_store import make_store
from agents.returns import n_step_returns
from agents.ring import Ring
from agents.types import Rollout, Sequences, Transition, map_obs
from lab.data.spec import Continuous, DataSpec, MultiDiscrete
from lab.errors import UserError
from lab.experiment import Config

if TYPE_CHECKING:
    from agents.sum_tree import SumTree

_COLUMNS: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    "reward": ((), torch.float32),
    "terminated": ((), torch.bool),
    "truncated": ((), torch.bool),
    "start": ((), torch.bool),
    "valid": ((), torch.bool),
    "return": ((), torch.float32),  # the n-step discounted sum
    "discount": ((), torch.float32),  # of the value at its end
    "steps": ((), torch.int32),  # rows from the first to the last of the window
}


class PriorityConfig(Config):
    """Proportional prioritization: P(i) ~ (|td_error_i| + epsilon)^alpha, weights (N P(i))^-beta over their maximum."""

    alpha: NonNegativeFloat = 0.6
    beta_start: float = Field(default=0.4, ge=0, le=1)
    beta_end: float = Field(default=1.0, ge=0, le=1)
    """reached at the end of the budget, linearly"""
    epsilon: PositiveFloat = 1e-6

    def beta(self, progress: float) -> float:
        """The exponent of the importance weights, `progress` in [0, 1] through the budget."""
        return self.beta_start + (self.beta_end - self.beta_start) * progress


class ReplayConfig(Config):
    """A replay buffer."""

    capacity: PositiveInt = 100_000
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
        rings = {
            name: Ring(self.num_rows, (num_envs, *shape), dtype, device)
            for name, (shape, dtype) in {**_COLUMNS, "action": _action_column(spec)}.items()
        }
        self._columns = {name: ring.flat() for name, ring in rings.items()}  # (R N, ...)
        self.rings = {**rings, **{f"obs.{name}": ring for name, ring in self._store.rings.items()}}
        """everything stored, by name"""
        self._oldest = 0
        self._tree = _sum_tree(self.num_slots) if config.priority else None
        self._max_priority = 1.0

    @property
    def rows_written(self) -> int:
        """Rows that were ever appended."""
        return self.rings["reward"].num_written

    def __len__(self) -> int:
        """Transitions whose n-step window is whole (those that only reset an environment included)."""
        return (self.rings["steps"].num_written - self._oldest) * self.num_envs

    def extend(self, rollout: Rollout) -> None:
        """Append a rollout. Raises UserError when it is longer than the buffer."""
        num_steps = rollout.reward.shape[0]
        if num_steps + self.config.n_step - 1 > self.num_rows:
            raise UserError(
                f"data.replay.capacity={self.config.capacity} is less than one rollout: "
                f"{num_steps} steps of {self.num_envs} environments with {self.config.n_step}-step returns."
            )
        self._store.append(rollout.obs, rollout.next_obs, rollout.start)
        for name in ("action", "reward", "terminated", "truncated", "start", "valid"):
            self.rings[name].append(getattr(rollout, name))
        self._forget()
        self._fold()

    def sample(self, batch_size: int, num_batches: int, beta: float = 1.0) -> Transition:
        """K batches at once (K, B, ...), drawn with replacement from the valid transitions.

        Args:
            beta: the exponent of the importance weights; without priorities all weights are 1.
        """
        if self._tree is None:
            index = self._draw(batch_size * num_batches)
            weight = torch.ones((), device=self.device).expand(num_batches, batch_size)
        else:
            index, weight = self._draw_by_priority(self._tree, batch_size, num_batches, beta)
        columns = self._columns
        last = index
        if self.config.n_step > 1:
            last = (index + columns["steps"].index_select(0, index) * self.num_envs) % self.num_slots

        def split(t: Tensor) -> Tensor:
            return t.view(num_batches, batch_size, *t.shape[1:])

        return Transition(
            obs=map_obs(self._store.obs(index), split),
            action=split(columns["action"].index_select(0, index)),
            reward=split(columns["return"].index_select(0, index)),
            discount=split(columns["discount"].index_select(0, index)),
            next_obs=map_obs(self._store.next_obs(last), split),
            weight=weight,
            indices=split(index),
        )

    def sample_sequences(self, batch_size: int, length: int) -> Sequences:
        """B stretches of `length` successive rows (L, B, ...), wherever they begin, with replacement.

        There must be that many rows.
        """
        num_starts = self.rows_written - self._oldest - length + 1
        assert num_starts > 0
        first = torch.randint(num_starts * self.num_envs, (batch_size,), generator=self.generator, device=self.device)
        steps = torch.arange(length, device=self.device)[:, None] * self.num_envs
        index = ((first + steps + self._oldest * self.num_envs) % self.num_slots).flatten()

        def split(t: Tensor) -> Tensor:
            return t.view(length, batch_size, *t.shape[1:])

        names = ("action", "reward", "terminated", "truncated", "start", "valid")
        return Sequences(
            obs=map_obs(self._store.obs(index), split),
            next_obs=map_obs(self._store.next_obs(index), split),
            **{name: split(self._columns[name].index_select(0, index)) for name in names},
        )

    def update_priorities(self, index: Tensor, td_error: Tensor) -> None:
        """Set the priorities of drawn transitions (B,) by their TD errors (B,)."""
        assert self._tree is not None
        assert self.config.priority is not None
        priority = td_error.detach().abs().double().add_(self.config.priority.epsilon).pow_(self.config.priority.alpha)
        values = priority.cpu().numpy()
        self._tree.set(index.cpu().numpy(), values)
        self._max_priority = max(self._max_priority, float(values.max()))

    def state_dict(self) -> dict[str, Any]:
        """All but what the rings hold: random state, oldest row, priorities."""
        state: dict[str, Any] = {"generator": self.generator.get_state(), "oldest": self._oldest}
        if self._tree is not None:
            state["priorities"] = torch.from_numpy(self._tree.leaves.copy())
            state["max_priority"] = self._max_priority
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; the rings are filled apart (agents/replay_files.py)."""
        self.generator.set_state(state["generator"].cpu())
        self._oldest = state["oldest"]
        if self._tree is not None:
            self._tree.load(state["priorities"].cpu().numpy())
            self._max_priority = state["max_priority"]

    def _forget(self) -> None:
        """Advance the oldest row to the first that is still whole."""
        before = self._oldest
        self._oldest = self._store.oldest_row(max(before, self.rows_written - self.num_rows))
        if self._tree is not None and self._oldest > before:
            index = self._indices(before, self._oldest)
            self._tree.set(index, np.zeros(len(index)))

    def _fold(self) -> None:
        """Sum the rewards of the windows that the last rows made whole; their transitions can be drawn from now on."""
        first, end = self.rings["steps"].num_written, self.rows_written - self.config.n_step + 1
        if end <= first:
            return
        reward, terminated, truncated = (
            self.rings[name].read(first, self.rows_written) for name in ("reward", "terminated", "truncated")
        )
        folded = n_step_returns(reward, terminated, truncated, self.gamma, self.config.n_step)
        for name, values in zip(("return", "discount", "steps"), folded, strict=True):
            self.rings[name].append(values)
        if self._tree is not None:
            valid = self.rings["valid"].read(first, end).flatten().cpu().numpy()
            self._tree.set(self._indices(first, end), valid * self._max_priority)

    def _indices(self, first_row: int, last_row: int) -> np.ndarray[Any, Any]:
        """Indices of all transitions in the rows [first_row, last_row)."""
        return np.arange(first_row * self.num_envs, last_row * self.num_envs) % self.num_slots

    def _draw(self, wanted: int) -> Tensor:
        """Indices (wanted,) of valid transitions, all equally likely."""
        found: list[Tensor] = []
        while wanted:  # rows that only reset are drawn again
            index = torch.randint(len(self), (wanted,), generator=self.generator, device=self.device)
            index = index.add_(self._oldest * self.num_envs).remainder_(self.num_slots)
            valid = self._columns["valid"].index_select(0, index)
            if not bool(valid.all()):
                index = index[valid]
            found.append(index)
            wanted -= len(index)
        return found[0] if len(found) == 1 else torch.cat(found)

    def _draw_by_priority(self, tree: SumTree, batch_size: int, num_batches: int, beta: float) -> tuple[Tensor, Tensor]:
        """Indices (K B,) and weights (K, B): one from each of B equal shares of the total (appendix B)."""
        shift = torch.rand(num_batches, batch_size, generator=self.generator, device=self.device, dtype=torch.float64)
        mass = (shift.cpu().numpy() + np.arange(batch_size)) * (tree.total / batch_size)
        leaf = tree.find(mass.reshape(-1))
        priority = tree.leaves[leaf].reshape(num_batches, batch_size)
        weight = (priority / priority.min(1, keepdims=True)) ** -beta  # the largest weight of a batch is 1
        return torch.from_numpy(leaf).to(self.device), torch.from_numpy(weight.astype(np.float32)).to(self.device)


def _action_column(spec: DataSpec) -> tuple[tuple[int, ...], torch.dtype]:
    if isinstance(spec.outputs, MultiDiscrete):
        return (len(spec.outputs.nums),), torch.int64
    if isinstance(spec.outputs, Continuous):
        return (spec.outputs.num,), torch.float32
    return (), torch.int64


def _sum_tree(num_leaves: int) -> SumTree:
    from agents.sum_tree import SumTree  # brings numba, which takes seconds to import

    return SumTree(num_leaves)
