"""How much an update changes weights: |change| / |weights|, about 1e-3 where the rate suits (Karpathy, CS231n)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lab.engine.torch_private import foreach_norm, foreach_sub

TOO_HIGH, TOO_LOW, USUAL = 1e-1, 1e-5, 1e-3


@torch.no_grad()
def relative_changes(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """|after - before| / |before| of each of P tensors, (P,); nan where it was zero, inf where it ends not finite."""
    changes = torch.stack(foreach_norm(foreach_sub(list(after), list(before)))).float()
    norms = torch.stack(foreach_norm(list(before))).float()
    return torch.where(norms > 0, changes.nan_to_num(math.inf) / norms, math.nan)


def typical_ratio(ratios: Tensor) -> Tensor:
    """The median of the matrices' ratios (P,); nan where there are none.

    What never changes has no gradient, whatever the rate, and is left out.
    """
    return torch.where(ratios == 0, math.nan, ratios).nanquantile(0.5)


def judge_ratio(ratio: float) -> str | None:
    """ "high" or "low", where an update is far from the usual."""
    if ratio > TOO_HIGH or math.isinf(ratio):
        return "high"
    return "low" if ratio < TOO_LOW else None


def rate_sentence(name: str, rate: float, ratio: float) -> str:
    """What is wrong with the rate of an updater, or with weights that an update leaves not finite; what to try."""
    if math.isinf(ratio):
        return (
            f"an update of {name}, at the learning rate {rate:g}, leaves weights that are not finite: inputs or "
            f"weights were not, or the rate is far too high"
        )
    high = judge_ratio(ratio) != "low"
    return (
        f"the learning rate of {name} ({rate:g}) is too {'high' if high else 'low'}: an update changes weights by "
        f"{ratio:.1e} of their norm, and about {USUAL:g} is usual; {'lower' if high else 'raise'} it"
    )
