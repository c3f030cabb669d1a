"""Experience replay (Lin 1992; Mnih et al. 2015) with n-step returns folded in (Sutton 1988).

A ring of time rows for N environments. T time steps, B batch, K minibatches, C capacity in rows.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from agents.types import Obs, Rollout, Transition, map_obs
from lab.experiment import Config


class ReplayConfig(Config):
    """A uniform replay buffer."""

    capacity: PositiveInt = 100_000
    """transitions kept"""
    n_step: PositiveInt = 1
    """rewards summed before bootstrapping"""


class ReplayBuffer:
    """Uniform replay of whole rollouts, row by row; a row holds one step of all N environments.

    Sampling takes any row whose n-step window is complete: it ends at an episode's end or n rows on.
    """

    def __init__(self, config: ReplayConfig, gamma: float, num_envs: int, seed: int, device: torch.device) -> None:
        self.config, self.gamma, self.num_envs, self.device = config, gamma, num_envs, device
        self.num_rows = max(config.capacity // num_envs, config.n_step + 1)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.rows_written = 0
        self._store: dict[str, Any] = {}

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        rows = min(self.rows_written, self.num_rows)
        return max(rows - self.config.n_step + 1, 0) * self.num_envs

    def extend(self, rollout: Rollout) -> None:
        """Append a rollout."""
        rows = {
            "obs": rollout.obs,
            "action": rollout.action,
            "reward": rollout.reward,
            "terminated": rollout.terminated,
            "done": rollout.done,
            "next_obs": rollout.next_obs,
            "valid": rollout.valid,
        }
        num_steps = rollout.reward.shape[0]
        if not self._store:
            self._store = {key: map_obs(value, self._empty) for key, value in rows.items()}
        where = (torch.arange(num_steps, device=self.device) + self.rows_written) % self.num_rows
        for key, value in rows.items():
            _write(self._store[key], where, value)
        self.rows_written += num_steps

    def sample(self, batch_size: int, num_batches: int) -> Transition:
        """K batches at once, (K, B, ...), drawn uniformly with replacement from the valid transitions."""
        wanted = batch_size * num_batches
        row, env = self._draw(wanted)
        flat = self._gather(row, env)

        def split(t: Tensor) -> Tensor:
            return t.view(num_batches, batch_size, *t.shape[1:])

        return Transition(
            map_obs(flat.obs, split),
            split(flat.action),
            split(flat.reward),
            split(flat.discount),
            map_obs(flat.next_obs, split),
        )

    def state_dict(self) -> dict[str, Any]:
        """Contents, position and random state."""
        used = min(self.rows_written, self.num_rows)
        return {
            "rows_written": self.rows_written,
            "generator": self.generator.get_state(),
            "store": {key: map_obs(value, lambda t: t[:used].clone()) for key, value in self._store.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.rows_written = state["rows_written"]
        self.generator.set_state(state["generator"].cpu())
        used = torch.arange(min(self.rows_written, self.num_rows), device=self.device)
        self._store = {key: map_obs(value, self._empty) for key, value in state["store"].items()}
        for key, value in state["store"].items():
            _write(self._store[key], used, value)

    def _empty(self, like: Tensor) -> Tensor:
        return torch.zeros(self.num_rows, *like.shape[1:], dtype=like.dtype, device=self.device)

    def _draw(self, wanted: int) -> tuple[Tensor, Tensor]:
        """Rows and environments of `wanted` valid transitions."""
        stored = min(self.rows_written, self.num_rows)
        oldest = self.rows_written - stored
        usable = stored - self.config.n_step + 1
        rows, envs, missing = [], [], wanted
        while missing:  # reset rows are drawn again
            flat = torch.randint(usable * self.num_envs, (missing,), generator=self.generator, device=self.device)
            row, env = (flat // self.num_envs + oldest) % self.num_rows, flat % self.num_envs
            valid = self._store["valid"][row, env]
            if not bool(valid.all()):
                row, env = row[valid], env[valid]
            rows.append(row)
            envs.append(env)
            missing -= len(row)
        return torch.cat(rows), torch.cat(envs)

    def _gather(self, row: Tensor, env: Tensor) -> Transition:
        store = self._store
        reward = store["reward"][row, env]
        discount = self.gamma * (~store["terminated"][row, env]).float()
        last, going = row, ~store["done"][row, env]
        for k in range(1, self.config.n_step):
            at = (row + k) % self.num_rows
            reward = reward + going * (self.gamma**k) * store["reward"][at, env]
            discount = torch.where(going, self.gamma ** (k + 1) * (~store["terminated"][at, env]).float(), discount)
            last = torch.where(going, at, last)
            going = going & ~store["done"][at, env]
        return Transition(
            map_obs(store["obs"], lambda t: t[row, env]),
            store["action"][row, env],
            reward,
            discount,
            map_obs(store["next_obs"], lambda t: t[last, env]),
        )


def _write(buffer: Obs, where: Tensor, rows: Obs) -> None:
    if isinstance(buffer, dict):
        assert isinstance(rows, dict)
        for key, value in rows.items():
            _write(buffer[key], where, value)
    else:
        assert isinstance(rows, Tensor)
        kept = min(len(where), len(buffer))
        buffer[where[-kept:]] = rows[-kept:].to(buffer.device)
