"""Patterns of names of parameters, and learning rates that are chosen by them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from lab.errors import UserError, unknown


def fits(name: str, pattern: str) -> bool:
    """Whether a name is one of those that a pattern stands for: `*conv*`, `*.0.weight`, case and all."""
    return fnmatchcase(name, pattern)


def require_fits(names: Sequence[str], patterns: Iterable[str], field: str) -> None:
    """Raise UserError for a pattern of `field` that fits none of the names."""
    for pattern in patterns:
        if not any(fits(name, pattern) for name in names):
            raise unknown(f"parameters in {field}", pattern, names)


def rate_factors(names: Sequence[str], rates: Mapping[str, float]) -> list[float]:
    """The factor of each name: that of the last pattern that fits it, or 1.

    Raises UserError for a pattern that fits none, and when all are 0.
    """
    require_fits(names, rates, "module.optimizer.rates")
    factors = [
        next((rates[pattern] for pattern in reversed(list(rates)) if fits(name, pattern)), 1.0) for name in names
    ]
    if names and not any(factors):
        raise UserError(f"module.optimizer.rates={dict(rates)!r} freezes all parameters: nothing is left to train.")
    return factors


def parameter_groups(parameters: Sequence[Tensor], factors: Sequence[float], lr: float) -> list[dict[str, Any]]:
    """Groups for an optimizer, one a factor, which each of them holds as `factor`."""
    return [
        {
            "params": [p for p, each in zip(parameters, factors, strict=True) if each == factor],
            "lr": lr * factor,
            "factor": factor,
        }
        for factor in dict.fromkeys(factors)
    ]
