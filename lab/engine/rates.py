"""Learning rates of parameters of their own, chosen by patterns of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from lab.errors import UserError, unknown


def rate_factors(names: Sequence[str], rates: Mapping[str, float]) -> list[float]:
    """The factor of each name: that of the last pattern that fits it, or 1.

    Raises UserError for a pattern that fits none, and when all are 0.
    """
    for pattern in rates:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown("parameters in optimizer.rates", pattern, names)
    factors = [
        next((rates[pattern] for pattern in reversed(list(rates)) if fnmatchcase(name, pattern)), 1.0) for name in names
    ]
    if names and not any(factors):
        raise UserError(f"optimizer.rates={dict(rates)!r} freezes all parameters: nothing is left to train.")
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
