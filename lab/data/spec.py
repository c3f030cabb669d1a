"""What a module must know about its data, without the batch dimension."""

from __future__ import annotations

from typing import NamedTuple

import torch

from lab.data.language.vocabulary import Vocabulary
from lab.data.targets import Target


class TensorSpec(NamedTuple):
    """Shape, dtype and bounds of one tensor, without the batch dimension.

    `levels`: how many equally spaced values from `low` to `high` it takes; 0 when it is continuous.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    low: float = -float("inf")
    high: float = float("inf")
    levels: int = 0

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return int(torch.Size(self.shape).numel())


class TreeSpec(TensorSpec):
    """Trees of at most N nodes: (N, 4), as `data.kind=trees` gives them, of words up to `high`."""


class Discrete(NamedTuple):
    """An action in [0, num)."""

    num: int


class MultiDiscrete(NamedTuple):
    """Several actions at once, the i-th in [0, nums[i])."""

    nums: tuple[int, ...]


class Continuous(NamedTuple):
    """A real action vector within bounds."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def num(self) -> int:
        """The number of components."""
        return len(self.low)


class Statistics(NamedTuple):
    """What the inputs (F,) are called, and what was subtracted from them and divided by, (F,) each."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]


Actions = Discrete | MultiDiscrete | Continuous


class DataSpec(NamedTuple):
    """What a data module gives: inputs (a dict for dict observations), and what is predicted from them or done.

    `target` is what a batch carries beside its inputs, `actions` what an environment takes, `statistics` how inputs
    were standardized, `vocabulary` what inputs that are words mean.
    """

    inputs: TensorSpec | dict[str, TensorSpec]
    target: Target | None = None
    actions: Actions | None = None
    statistics: Statistics | None = None
    vocabulary: Vocabulary | None = None
