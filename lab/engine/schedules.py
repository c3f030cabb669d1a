"""The shapes of schedules: a factor as a function of progress p in [0, 1], or of how evaluations went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple


def linear(p: float, final: float) -> float:
    """From 1 to `final` in a straight line."""
    return 1 + (final - 1) * p


def cosine(p: float, final: float) -> float:
    """From 1 to `final` along half a cosine (Loshchilov and Hutter 2017)."""
    return final + (1 - final) * (1 + math.cos(math.pi * p)) / 2


def cyclic(p: float, cycles: int, final: float) -> float:
    """So many times from 1 to `final` along half a cosine (Loshchilov and Hutter 2017, Huang et al. 2017)."""
    return cosine(p * cycles % 1 if p < 1 else 1.0, final)


def exponential(p: float, final: float) -> float:
    """From 1 to `final`, by the same share in equal times."""
    return float(final**p)


def step(p: float, milestones: Sequence[float], gamma: float) -> float:
    """`gamma` to the number of milestones that are reached."""
    return float(gamma ** sum(milestone <= p for milestone in milestones))


def inverse(p: float, decay: float) -> float:
    """1 / (1 + decay p), the rates of Robbins and Monro 1951."""
    return 1 / (1 + decay * p)


def one_cycle(p: float, start: float, peak: float, final: float) -> float:
    """From `start` up to 1 at p = `peak`, then down to `final`, each along half a cosine (Smith 2018)."""
    if p < peak:
        return 1 + (start - 1) * (1 + math.cos(math.pi * p / peak)) / 2
    return cosine((p - peak) / (1 - peak), final)


class Stagnation(NamedTuple):
    """The best value of a metric so far, and how many evaluations in a row have not improved it."""

    best: float | None = None
    num_evaluations: int = 0

    def after(self, value: float, mode: Literal["max", "min"]) -> Stagnation:
        """With one more evaluation; an equal value is no improvement, nor is one that is not finite."""
        improved = self.best is None or (value > self.best if mode == "max" else value < self.best)
        if improved and math.isfinite(value):
            return Stagnation(value, 0)
        return self._replace(num_evaluations=self.num_evaluations + 1)


class Plateau:
    """A factor that is multiplied by `gamma` whenever `patience` evaluations in a row have brought no improvement.

    It never falls below `final`.
    """

    def __init__(self, gamma: float, patience: int, final: float) -> None:
        self.gamma, self.patience, self.final = gamma, patience, final
        self.factor, self.stagnation = 1.0, Stagnation()

    def update(self, value: float, mode: Literal["max", "min"]) -> None:
        """Take in one evaluation of the monitored metric."""
        self.stagnation = self.stagnation.after(value, mode)
        if self.stagnation.num_evaluations >= self.patience:
            self.factor = max(self.factor * self.gamma, self.final)
            self.stagnation = self.stagnation._replace(num_evaluations=0)

    def state_dict(self) -> dict[str, Any]:
        """The factor and how evaluations went."""
        return {"factor": self.factor, **self.stagnation._asdict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.factor = state["factor"]
        self.stagnation = Stagnation(state["best"], state["num_evaluations"])
