"""Actors: policies that act for one rollout, arrays in and arrays out.

Any policy acts by operators of torch. In one or a few environments those of a small network take several times longer
to call than to compute: there an `ArrayMLP` computes in numpy on the parameters' own memory, and so follows them as
long as they stay where they are. T time steps, N environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

Array = np.ndarray[Any, Any]

_ACTIVATIONS: dict[type[nn.Module], np.ufunc] = {nn.ReLU: np.maximum, nn.Tanh: np.tanh}
_MAX_PRODUCTS = 2**17
"""of one layer; with more torch is as fast"""


class Actor(Protocol):
    """A policy with the noise and the recurrent state of one rollout."""

    @property
    def state(self) -> Tensor | None:
        """The recurrent state (S, N, F) after the last step."""

    def __call__(self, t: int, obs: Any) -> Array:
        """Actions for the environments at step t, (N,) or (N, A), of observations (N, ...) or a dict of them."""

    def clear(self, start: Array) -> None:
        """Clear the recurrent state of environments whose episode starts (N,)."""

    def actions(self) -> Tensor:
        """The actions (T, N) or (T, N, A) of the steps taken."""

    def extras(self) -> dict[str, Tensor]:
        """The policy's other outputs, (T, N, ...)."""


class ArrayMLP:
    """Linear layers and activations, (N, in) -> (N, out), for N = `num_rows`."""

    def __init__(
        self,
        layers: Sequence[tuple[Array, Array, np.ufunc | None]],
        num_rows: int,
        parameters: Sequence[Tensor] = (),
    ) -> None:
        """Each layer is a weight (in, out), a bias (out,) and an activation; they are the memory of `parameters`."""
        self._layers = [(weight, bias, torch.empty(num_rows, len(bias)).numpy(), then) for weight, bias, then in layers]
        self.num_rows, self._parameters = num_rows, list(parameters)
        self._places = [p.data_ptr() for p in self._parameters]

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is None, for it would not follow the copy's parameters."""
        return type(None), ()

    def shares_memory(self) -> bool:
        """Whether the parameters still lie in the memory that it computes on."""
        return [p.data_ptr() for p in self._parameters] == self._places

    def __call__(self, x: Array) -> Array:
        """The outputs, which the next call overwrites."""
        for weight, bias, y, activation in self._layers:
            np.dot(x, weight, out=y)
            np.add(y, bias, out=y)
            if activation is np.maximum:
                np.maximum(y, 0.0, out=y)
            elif activation is not None:
                activation(y, out=y)
            x = y
        return x


def array_mlp(modules: Sequence[nn.Module], num_rows: int) -> ArrayMLP | None:
    """The network of these modules one after the other; None for other layers, on a GPU, or where torch is as fast."""
    layers: list[tuple[Array, Array, np.ufunc | None]] = []
    parameters: list[Tensor] = []
    for module in modules:
        if type(module) is nn.Linear and module.bias is not None:
            weight = module.weight.detach()
            if weight.device.type != "cpu" or weight.numel() * num_rows > _MAX_PRODUCTS:
                return None
            layers.append((weight.numpy().T, module.bias.detach().numpy(), None))
            parameters += [module.weight, module.bias]
        elif type(module) in _ACTIVATIONS and layers and layers[-1][2] is None:
            layers[-1] = (*layers[-1][:2], _ACTIVATIONS[type(module)])
        else:
            return None
    return ArrayMLP(layers, num_rows, parameters)
