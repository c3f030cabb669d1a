"""Networks over flattened inputs: none at all, or a multi-layer perceptron."""

from __future__ import annotations

import itertools
import math
from typing import Literal

from torch import nn

from lab.backbones.layers import Activation, DropConnect, Maxout, Share, activation_layer
from lab.backbones.registry import register

_PIECES = 2


@register("linear", example_shape=(4,))
def linear(input_shape: tuple[int, ...]) -> nn.Module:
    """The flattened input itself, of which a head makes a linear model (softmax regression, least squares, a SVM)."""
    return nn.Flatten()


@register("mlp", example_shape=(4,))
def mlp(
    input_shape: tuple[int, ...],
    *,
    hidden: tuple[int, ...] = (64, 64),
    activation: Activation | Literal["maxout"] = "relu",
    norm: Literal["none", "layer", "batch"] = "none",
    dropout: Share = 0.0,
    dropconnect: Share = 0.0,
) -> nn.Module:
    """Multi-layer perceptron over the flattened input; maxout takes the larger of two linear functions a unit."""
    layers: list[nn.Module] = [nn.Flatten()] if len(input_shape) != 1 else []
    pieces = _PIECES if activation == "maxout" else 1
    for before, after in itertools.pairwise((math.prod(input_shape), *hidden)):
        layers.append(
            DropConnect(before, pieces * after, dropconnect) if dropconnect else nn.Linear(before, pieces * after)
        )
        if norm != "none":
            layers.append((nn.LayerNorm if norm == "layer" else nn.BatchNorm1d)(pieces * after))
        layers.append(Maxout(pieces) if activation == "maxout" else activation_layer(activation))
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)
