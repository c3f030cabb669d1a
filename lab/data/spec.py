"""What a module must know about its data, without the batch dimension."""

from __future__ import annotations

from typing import NamedTuple

import torch


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


class Classes(NamedTuple):
    """A class label in [0, num)."""

    num: int
    names: tuple[str, ...] = ()


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


class RealValues(NamedTuple):
    """Real targets of a shape (regression)."""

    shape: tuple[int, ...]


class Symbols(NamedTuple):
    """The next symbol of a text, one of `alphabet`."""

    alphabet: str


Outputs = Classes | Discrete | MultiDiscrete | Continuous | RealValues | Symbols | None


class DataSpec(NamedTuple):
    """Inputs and outputs of a data module; `inputs` is a dict for dict observations."""

    inputs: TensorSpec | dict[str, TensorSpec]
    outputs: Outputs = None
