"""What keeps weights small beside L2: L1 (Tibshirani 1996), and a bound on each unit's norm (Srivastava et al. 2014).

Weights are parameters of two or more dimensions; biases and the scales of normalisation layers are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.LayerNorm, nn.RMSNorm)


class Weight(NamedTuple):
    """A weight: where it stands among the parameters, and its dimension along which its units lie."""

    position: int
    parameter: Tensor
    dim: int


def weights_of(module: nn.Module, names: Sequence[str]) -> list[Weight]:
    """Those of the named parameters of `module` that are weights."""
    weights = []
    for position, name in enumerate(names):
        owner, _, own_name = name.rpartition(".")
        layer, parameter = module.get_submodule(owner), module.get_parameter(name)
        if parameter.ndim >= 2 and "bias" not in own_name and not isinstance(layer, _NORMS):
            weights.append(Weight(position, parameter, 1 if isinstance(layer, _TRANSPOSED) else 0))
    return weights


@torch.no_grad()
def add_l1_(gradients: Sequence[Tensor], weights: Sequence[Weight], l1: float) -> None:
    """Add the subgradient of l1 |w| to the gradients (of all parameters): l1 sign(w)."""
    for weight in weights:
        gradients[weight.position].add_(weight.parameter.sign(), alpha=l1)


@torch.no_grad()
def limit_norms_(weights: Sequence[Weight], max_norm: float) -> None:
    """Scale each unit's weights back to at most this norm."""
    for weight in weights:
        weight.parameter.renorm_(2, weight.dim, max_norm)
