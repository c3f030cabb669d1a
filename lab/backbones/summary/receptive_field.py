"""How many pixels of the input one place of a map depends on, followed from operator to operator.

A kernel of K places widens the field by K - 1 times the jump, the number of input pixels between two places of its
input; a stride multiplies the jump (Araujo et al. 2019, Computing Receptive Fields of Convolutional Neural Networks).
Where branches meet, the largest counts. It is the size alone that is followed: padding and shifts move a field, and
fields near a border reach beyond it. After a transposed convolution it is a bound. What normalisation gathers over an
image does not count.

B batch, C channels; maps are (B, C, L), (B, C, H, W) or (B, C, D, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from lab.engine.torch_private import bound_arguments


class Axis(NamedTuple):
    """Along one axis of a map: the pixels that a place depends on, and those between two places.

    The size is infinite where a place depends on the whole input.
    """

    size: float | Fraction
    jump: Fraction


Field = tuple[Axis, ...] | None
"""one Axis for each axis of the map; None where places and pixels no longer correspond"""

_CONVOLUTIONS = {f"{name}{n}d" for name in ("conv", "conv_transpose") for n in (1, 2, 3)}
_POOLINGS = {f"{name}_pool{n}d" for name in ("max", "avg") for n in (1, 2, 3)}
_ADAPTIVE_POOLINGS = {f"adaptive_{name}{n}d" for name in ("max_pool", "avg_pool") for n in (1, 2, 3)}
_REDUCTIONS = {"mean", "sum", "amax"}
_CROPS = {"pad", "constant_pad_nd", "slice", "narrow"}
_SAME_PLACES = {
    *("batch_norm", "group_norm", "layer_norm", "instance_norm", "rms_norm"),
    *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"),
    *("cat", "concat", "chunk", "split", "split_with_sizes", "glu"),
    *("contiguous", "clone", "to", "expand", "detach", "view", "reshape", "prelu", "channel_shuffle"),
}
"""operators that leave each place where it is, if the map keeps its size"""


class ReceptiveFields:
    """The fields of all maps that were made of an input so far."""

    def __init__(self, inputs: Tensor) -> None:
        self._fields = WeakTensorKeyDictionary()
        self._fields[inputs] = (Axis(1, Fraction(1)),) * (inputs.dim() - 2) or None

    def follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Iterable[Tensor]) -> None:
        """Take note of a call of an operator."""
        arguments = bound_arguments(func, args, kwargs)
        maps = [tensor for tensor in tensors_of(arguments.values()) if tensor in self._fields]
        field = _joined([self._fields[each] for each in maps])
        for out in outputs if maps else ():
            known = field is None or math.isinf(field[0].size)
            self._fields[out] = field if known else _after(func, arguments, field, maps[0], out)

    def same(self, inputs: Tensor, output: Tensor) -> None:
        """Take note that each place of `output` belongs to that place of `inputs`."""
        self._fields[output] = self._fields.get(inputs)

    def size(self, x: Tensor) -> tuple[int, ...] | Literal["all"] | None:
        """Pixels along each axis, "all" for the whole input, or None where it makes no sense."""
        field: Field = self._fields.get(x)
        if field is None or x.dim() != len(field) + 2:
            return None
        return "all" if math.isinf(field[0].size) else tuple(math.ceil(axis.size) for axis in field)


def tensors_of(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among values, also in lists and tuples of them."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_of(value)
    return found


def widened(field: Sequence[Axis], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Field:
    """After a convolution or pooling: size + (K - 1) * dilation * jump, jump * stride."""
    return tuple(
        Axis(axis.size + (k - 1) * d * axis.jump, axis.jump * s)
        for axis, k, s, d in zip(field, kernel, stride, dilation, strict=True)
    )


def grown(field: Sequence[Axis], kernel: Sequence[int], stride: Sequence[int]) -> Field:
    """After a transposed convolution, where each place gathers ceil(K / stride) places: jump / stride."""
    return tuple(
        Axis(axis.size + (math.ceil(k / s) - 1) * axis.jump, axis.jump / s)
        for axis, k, s in zip(field, kernel, stride, strict=True)
    )


def _joined(fields: Sequence[Field]) -> Field:
    """The largest field. The whole input is the largest of all; one unknown field makes the outcome unknown."""
    known = [field for field in fields if field is not None]
    whole = [field for field in known if math.isinf(field[0].size)]
    if whole or len(known) < len(fields) or len({len(field) for field in known}) != 1:
        return whole[0] if whole else None
    return tuple(Axis(max(a.size for a in axes), max(a.jump for a in axes)) for axes in zip(*known, strict=True))


def _after(func: Any, arguments: dict[str, Any], field: Any, x: Tensor, out: Tensor) -> Field:
    """The field of `out`, which an operator made of the map `x`."""
    name = func.overloadpacket.__name__
    num_axes, spatial = len(field), x.shape[2:]

    def along_axes(option: str) -> Sequence[int]:
        value = arguments.get(option)
        values = [1] if value is None else [value] if isinstance(value, int) else list(value)
        return values * num_axes if len(values) == 1 else values

    if name in _CONVOLUTIONS:
        kernel = arguments["weight"].shape[2:]
        if "transpose" in name:
            reach = [(k - 1) * d + 1 for k, d in zip(kernel, along_axes("dilation"), strict=True)]
            return grown(field, reach, along_axes("stride"))
        return widened(field, kernel, along_axes("stride"), along_axes("dilation"))
    if name in _POOLINGS:
        kernel = along_axes("kernel_size")
        return widened(field, kernel, along_axes("stride") if arguments["stride"] else kernel, along_axes("dilation"))
    if name in _ADAPTIVE_POOLINGS:
        return _pooled_to(field, spatial, out.shape[2:])
    if name in _REDUCTIONS:
        axes = {axis % x.dim() for axis in arguments.get("dim") or range(x.dim())}
        return _whole(num_axes) if axes >= set(range(2, x.dim())) else None
    if out.dim() != num_axes + 2:
        return None
    pointwise = torch.Tag.pointwise in func.tags
    cropped = name in _CROPS and arguments.get("step") in (1, None)
    return field if pointwise or cropped or (name in _SAME_PLACES and out.shape[2:] == spatial) else None


def _pooled_to(field: Sequence[Axis], before: Sequence[int], after: Sequence[int]) -> Field:
    """After an adaptive pooling from maps of one size to maps of another."""
    if all(n == 1 for n in after):
        return _whole(len(field))

    def kernel(n: int, m: int) -> int:
        """The most places of n that one of m gathers: place i those from i n / m to (i + 1) n / m."""
        return max(-(-(i + 1) * n // m) - i * n // m for i in range(m))

    return tuple(
        Axis(axis.size + (kernel(n, m) - 1) * axis.jump, axis.jump * Fraction(n, m))
        for axis, n, m in zip(field, before, after, strict=True)
    )


def _whole(num_axes: int) -> Field:
    return (Axis(math.inf, Fraction(1)),) * num_axes
