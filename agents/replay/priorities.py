"""Priorities of transitions by their TD errors (Schaul et al. 2016). B batch, K minibatches, M transitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from lab.experiment import Config

Array = np.ndarray[Any, Any]


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


class Priorities:
    """The priorities of `num_slots` transitions, all 0 at first; on the CPU, whatever device indices come from."""

    def __init__(self, config: PriorityConfig, num_slots: int) -> None:
        from agents.replay.sum_tree import SumTree  # brings numba, which takes seconds to import

        self.config, self.tree = config, SumTree(num_slots)
        self.largest = 1.0
        """of all priorities so far; new transitions get it, so that each is drawn soon"""

    def add(self, index: Array, valid: Array) -> None:
        """Give new transitions (M,) the largest priority; those that are not valid are never drawn."""
        self.tree.set(index, valid * self.largest)

    def remove(self, index: Array) -> None:
        """Draw these transitions (M,) no more."""
        self.tree.set(index, np.zeros(len(index)))

    def draw(self, uniform: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        """Indices and importance weights, both (K, B); `uniform` (K, B) lies in [0, 1)."""
        index, weight = np.empty(uniform.shape, np.int64), np.empty(uniform.shape, np.float32)
        self.tree.draw(uniform.cpu().numpy(), beta, index, weight)
        return torch.from_numpy(index).to(uniform.device), torch.from_numpy(weight).to(uniform.device)

    def update(self, index: Tensor, td_error: Tensor) -> None:
        """Set the priorities of drawn transitions (B,) by their TD errors (B,)."""
        errors = td_error.detach().float().cpu().numpy()
        largest = self.tree.set_by_error(index.cpu().numpy(), errors, self.config.epsilon, self.config.alpha)
        self.largest = max(self.largest, largest)

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs."""
        return {"priorities": torch.from_numpy(self.tree.leaves.copy()), "max_priority": self.largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.tree.load(state["priorities"].cpu().numpy())
        self.largest = state["max_priority"]
