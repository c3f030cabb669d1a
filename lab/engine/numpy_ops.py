"""Elementwise operators of recorded graphs in numpy, which takes a third of torch's time to call one.

Tensors and arrays share their memory, so that changing over is cheap.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

aten = torch.ops.aten


def tanh(x: Tensor) -> Tensor:
    """numpy's vectorised kernel: a tenth of torch's time, and within 1e-7 of it."""
    return torch.from_numpy(np.tanh(x.numpy()))


def tanh_(x: Tensor) -> Tensor:
    """The same in place."""
    array = x.numpy()
    np.tanh(array, out=array)
    return x


def to_tensor(x: Any) -> Tensor:
    """An array as a tensor on the same memory."""
    return torch.from_numpy(x)


def square(x: Any) -> Any:
    """x * x, as torch computes it."""
    return x * x


def exp(x: Any) -> Any:
    return np.exp(x)


def minimum(x: Any, y: Any) -> Any:
    return np.minimum(x, y)


def maximum(x: Any, y: Any) -> Any:
    return np.maximum(x, y)


def where(condition: Any, x: Any, y: Any) -> Any:
    return np.where(condition, x, y)


def clamp(x: Any, low: Any = None, high: Any = None) -> Any:
    """x between two bounds, either of which may be None."""
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


OPERATORS: dict[Any, Callable[..., Any]] = {
    aten.add.Tensor: operator.add,
    aten.sub.Tensor: operator.sub,
    aten.mul.Tensor: operator.mul,
    aten.mul.Scalar: operator.mul,
    aten.div.Tensor: operator.truediv,
    aten.neg.default: operator.neg,
    aten.le.Tensor: operator.le,
    aten.ge.Tensor: operator.ge,
    aten.gt.Tensor: operator.gt,
    aten.lt.Tensor: operator.lt,
    aten.le.Scalar: operator.le,
    aten.ge.Scalar: operator.ge,
    aten.gt.Scalar: operator.gt,
    aten.lt.Scalar: operator.lt,
    aten.eq.Tensor: operator.eq,
    aten.ne.Tensor: operator.ne,
    aten.bitwise_or.Tensor: operator.or_,
    aten.bitwise_and.Tensor: operator.and_,
    aten.abs.default: operator.abs,
    aten.exp.default: exp,
    aten.minimum.default: minimum,
    aten.maximum.default: maximum,
    aten.where.self: where,
    aten.clamp.default: clamp,
}
"""torch's elementwise operators -> the same of arrays"""
