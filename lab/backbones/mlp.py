"""Multi-layer perceptrons."""

from __future__ import annotations

import itertools
import math
from typing import Literal

from torch import nn

from lab.backbones.registry import register

Activation = Literal["relu", "tanh", "sigmoid", "elu", "gelu", "silu", "leaky_relu", "softplus"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
}


def activation_layer(name: Activation) -> nn.Module:
    """The layer of an activation's name."""
    return _ACTIVATIONS[name]()


@register("mlp", example_shape=(4,))
def mlp(
    input_shape: tuple[int, ...],
    *,
    hidden: tuple[int, ...] = (64, 64),
    activation: Activation = "relu",
    layer_norm: bool = False,
) -> nn.Module:
    """Multi-layer perceptron over the flattened input."""
    layers: list[nn.Module] = [nn.Flatten()] if len(input_shape) != 1 else []
    for before, after in itertools.pairwise((math.prod(input_shape), *hidden)):
        layers.append(nn.Linear(before, after))
        if layer_norm:
            layers.append(nn.LayerNorm(after))
        layers.append(activation_layer(activation))
    return nn.Sequential(*layers)
