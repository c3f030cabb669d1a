"""Histograms of weights, gradients and activations by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lab.training.health.layers import CURVED, WEIGHTED, layers_of, watching

NUM_BINS = 32
_MOST_NUMBERS = 4_096
"""of a tensor that are counted, spread over it evenly"""
_MOST_LAYERS = 24
"""of a network that have histograms, spread over it evenly"""


class Histogram(NamedTuple):
    """How many numbers lie in each of equal bins from `low` to `high`."""

    low: float
    high: float
    counts: list[int]


@torch.no_grad()
def histogram(values: Tensor) -> Histogram | None:
    """Of the finite numbers of a tensor of any shape; None where there are none."""
    values = _some(values.detach()).float().cpu()
    if not len(values):
        return None
    low, high = (float(each) for each in values.aminmax())
    if not math.isfinite(high - low):
        return histogram(values[values.isfinite()])
    if low == high:
        low, high = low - 0.5, high + 0.5
    return Histogram(low, high, torch.histc(values, NUM_BINS, low, high).int().tolist())


def named(kind: str, tensors: dict[str, Tensor]) -> dict[str, Histogram]:
    """Histograms by `kind`/name, of tensors by name; of a deep network, those of some layers."""
    stride = -(-len(tensors) // _MOST_LAYERS) or 1
    pairs = {f"{kind}/{name}": histogram(t) for name, t in list(tensors.items())[::stride]}
    return {name: each for name, each in pairs.items() if each is not None}


class Activations:
    """The first outputs of a network's layers while it was watched, by layer."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {}

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Watch the module's forward passes within."""
        layers = layers_of(module, (*WEIGHTED, *CURVED, nn.RNNBase))
        stride = -(-len(layers) // _MOST_LAYERS) or 1
        with watching(dict(list(layers.items())[::stride]), self._see):
            yield

    def _see(self, name: str, layer: nn.Module, output: Tensor) -> None:
        if name not in self.first:
            self.first[name] = _some(output).clone()


def _some(values: Tensor) -> Tensor:
    """Numbers of a tensor, spread over it evenly."""
    return values.flatten()[:: -(-values.numel() // _MOST_NUMBERS) or 1]
