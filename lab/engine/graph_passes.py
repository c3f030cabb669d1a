"""Exact rewrites of a recorded graph of operators (lab/engine/tracing.py), for small networks on a CPU above all.

- views of parameters are made once, since parameters are updated in place; so is whatever depends on no input at all;
- what does nothing goes: copies of views, factors of one, double negation;
- a sum over the batch (a bias gradient) becomes a product with a row of ones, which is several times faster;
- the weight gradient of a layer with few inputs is computed transposed, several times faster too;
- tanh is numpy's, whose vectorised kernel takes a tenth of torch's time and differs by 1e-7;
- so are elementwise operators on few numbers, whose calls take numpy a third of the time;
- operators are called by their quickest entry, where they have one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

aten = torch.ops.aten

# The same operators by their direct entry, which takes half the time to call or less.
_DIRECT: dict[Any, Callable[..., Any]] = {
    aten.addmm.default: torch.addmm,
    aten.mm.default: torch.mm,
    aten.mv.default: torch.mv,
    aten.bmm.default: torch.bmm,
    aten.t.default: torch.t,
    aten.tanh.default: torch.tanh,
    aten.relu.default: torch.relu,
    aten.sigmoid.default: torch.sigmoid,
    aten.exp.default: torch.exp,
    aten.log.default: torch.log,
    aten.neg.default: torch.neg,
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.mul.Tensor: torch.mul,
    aten.mul.Scalar: torch.mul,
    aten.div.Tensor: torch.div,
    aten.sum.default: torch.sum,
    aten.sum.dim_IntList: torch.sum,
    aten.mean.default: torch.mean,
    aten.unsqueeze.default: torch.unsqueeze,
    aten.squeeze.dim: torch.squeeze,
    aten.minimum.default: torch.minimum,
    aten.maximum.default: torch.maximum,
    aten.clamp.default: torch.clamp,
    aten.where.self: torch.where,
    aten.le.Tensor: torch.le,
    aten.le.Scalar: torch.le,
    aten.ge.Tensor: torch.ge,
    aten.ge.Scalar: torch.ge,
    aten.gt.Tensor: torch.gt,
    aten.gt.Scalar: torch.gt,
    aten.lt.Tensor: torch.lt,
    aten.lt.Scalar: torch.lt,
    aten.eq.Tensor: torch.eq,
    aten.ne.Tensor: torch.ne,
    aten.bitwise_or.Tensor: torch.bitwise_or,
    aten.bitwise_and.Tensor: torch.bitwise_and,
    aten.stack.default: torch.stack,
    aten.cat.default: torch.cat,
    aten.unbind.int: torch.unbind,
    aten.gather.default: torch.gather,
    aten._softmax.default: torch._softmax,
    aten._log_softmax.default: torch._log_softmax,
    aten._log_softmax_backward_data.default: torch._log_softmax_backward_data,
}
_METHODS = {aten.view.default: "view", aten.expand.default: "expand"}
_VIEWS = (aten.t.default, aten.transpose.int, aten.view.default, aten.unsqueeze.default, aten.expand.default)
_FIXED = (
    *_VIEWS,
    aten.neg.default,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.div.Scalar,
    aten.add.Tensor,
    aten.sub.Tensor,
)
_COPIES = (aten.view.default, aten.expand.default)
_BY_ONE = (aten.pow.Tensor_Scalar, aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor)
_PRODUCTS = (aten.addmm.default, aten.mm.default)
_FEW_INPUTS = 32
_FEW_NUMBERS = 2**13


class _Constants:
    """Tensors made once and handed to the graph as further inputs, which is quicker than reading its attributes."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph, self.values = graph, list[Tensor]()
        self._last = [node for node in graph.nodes if node.op == "placeholder"][-1]

    def add(self, value: Tensor) -> fx.Node:
        with self.graph.inserting_after(self._last):
            self._last = self.graph.placeholder(f"once_{len(self.values)}")
        self._last.meta["val"] = value
        self.values.append(value)
        return self._last


def clean(
    graph_module: fx.GraphModule, parameters: list[Tensor], inputs: Sequence[Tensor], places: Sequence[Tensor] = ()
) -> list[Tensor]:
    """Rewrite the graph of `parameters` and `inputs` in place; returns the constants that it takes after them.

    `places` is memory for the first outputs: those that are products are written there.
    """
    graph, on_cpu = graph_module.graph, all(t.device.type == "cpu" for t in inputs)
    constants = _Constants(graph)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node, value in zip(placeholders, [*parameters, *inputs], strict=True):
        node.meta["val"] = value
    _drop_detach_and_double_transpose(graph)
    fixed = _hoist(graph, parameters, constants)
    _drop_what_does_nothing(graph, fixed)
    if on_cpu:
        _replace_batch_sums(graph, constants)
        _transpose_narrow_products(graph)
        _replace_tanh(graph)
        _eliminate_dead_calls(graph)
        _calculate_in_arrays(graph)
    _eliminate_dead_calls(graph)
    _write_products(graph, places, constants)
    _call_directly(graph)
    for node in graph.nodes:
        node.meta.clear()  # it holds on to tensors
    graph_module.recompile()
    return constants.values


def _calls(graph: fx.Graph) -> list[Any]:
    return [node for node in graph.nodes if node.op == "call_function"]


def _eliminate_dead_calls(graph: fx.Graph) -> None:
    for node in reversed(_calls(graph)):
        if not node.users and not _writes(node):
            graph.erase_node(node)


def _drop_detach_and_double_transpose(graph: fx.Graph) -> None:
    for node in _calls(graph):
        if node.target is aten.detach.default:
            node.replace_all_uses_with(node.args[0])
        elif node.target is aten.t.default:
            inner = node.args[0]
            if inner.op == "call_function" and inner.target is aten.t.default:
                node.replace_all_uses_with(inner.args[0])


def _hoist(graph: fx.Graph, parameters: list[Tensor], constants: _Constants) -> dict[fx.Node, Tensor]:
    """Make once: views of parameters, the gradient's first ones, and what follows from these, which is returned."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    known: dict[fx.Node, Tensor] = dict(zip(placeholders, parameters, strict=False))
    fixed: dict[fx.Node, Tensor] = {}
    written = {node.args[0] for node in _calls(graph) if _writes(node)}
    for node in _calls(graph):
        if node in written or any(user in written for user in node.users):
            continue
        value: Tensor | None = None
        if node.target in _VIEWS and node.args[0] in known:
            value = known[node] = node.target(known[node.args[0]], *node.args[1:])
        elif node.target is aten.ones_like.default and (like := _value(node.args[0])) is not None:
            value = torch.ones(like.shape, dtype=like.dtype, device=parameters[0].device)
        elif node.target is aten.new_zeros.default and (like := _value(node)) is not None:
            value = torch.zeros(like.shape, dtype=like.dtype, device=parameters[0].device)
        elif node.target in _FIXED and not node.kwargs and all(source in fixed for source in node.all_input_nodes):
            value = node.target(*fx.node.map_arg(node.args, fixed.__getitem__))
        if value is not None:
            constant = constants.add(value)
            node.replace_all_uses_with(constant)
            (known if node in known else fixed)[constant] = value
    return fixed


def _drop_what_does_nothing(graph: fx.Graph, fixed: dict[fx.Node, Tensor]) -> None:
    for node in _calls(graph):
        source = node.args[0] if node.args else None
        if node.target is aten.mul.Tensor and isinstance(node.args[1], fx.Node):
            _drop_factor(graph, node, fixed)
        elif not isinstance(source, fx.Node) or not _alike(node, source):
            continue
        elif node.target in _COPIES or (node.target in _BY_ONE and node.args[1] == 1):
            node.replace_all_uses_with(source)
        elif node.target is aten.neg.default and source.target is aten.neg.default:
            node.replace_all_uses_with(source.args[0])


def _drop_factor(graph: fx.Graph, node: Any, fixed: dict[fx.Node, Tensor]) -> None:
    """A product with ones, or with minus ones."""
    for factor, other in (node.args, node.args[::-1]):
        if factor not in fixed or not _alike(node, other):
            continue
        if bool((fixed[factor] == 1).all()):
            node.replace_all_uses_with(other)
            return
        if bool((fixed[factor] == -1).all()):
            with graph.inserting_before(node):
                negated = graph.call_function(aten.neg.default, (other,))
            negated.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(negated)
            return


def _replace_batch_sums(graph: fx.Graph, constants: _Constants) -> None:
    """sum over the first dimension of a matrix -> ones (1, B) @ matrix."""
    for node in _calls(graph):
        if node.target is not aten.sum.dim_IntList or node.kwargs:
            continue
        source, dims, *keepdim = node.args
        value = _value(source)
        if dims != [0] or keepdim != [True] or value is None or value.dim() != 2 or value.dtype != torch.float32:
            continue
        ones = constants.add(torch.ones(1, value.shape[0]))
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.call_function(aten.mm.default, (ones, source)))


def _transpose_narrow_products(graph: fx.Graph) -> None:
    """g^T x -> (x^T g)^T for g (B, out) and x (B, in), where a layer has few inputs and more outputs."""
    transposed: dict[fx.Node, fx.Node] = {}
    for node in _calls(graph):
        if node.target is not aten.mm.default or getattr(node.args[0], "target", None) is not aten.t.default:
            continue
        g, x = node.args[0].args[0], node.args[1]
        narrow, wide = _value(x), _value(g)
        if narrow is None or wide is None or not narrow.shape[1] <= min(_FEW_INPUTS, wide.shape[1] // 2):
            continue
        with graph.inserting_before(node):
            if x not in transposed:
                transposed[x] = graph.call_function(aten.t.default, (x,))
            product = graph.call_function(aten.mm.default, (transposed[x], g))
            node.replace_all_uses_with(graph.call_function(aten.t.default, (product,)))


def _replace_tanh(graph: fx.Graph) -> None:
    for node in _calls(graph):
        value, source = _value(node), node.args[0] if node.args else None
        if node.target is aten.tanh.default and value is not None and value.dtype == torch.float32:
            alone = isinstance(source, fx.Node) and source.target in _PRODUCTS and len(source.users) == 1
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.call_function(_tanh_ if alone else _tanh, node.args))


def _tanh(x: Tensor) -> Tensor:
    return torch.from_numpy(np.tanh(x.numpy()))


def _tanh_(x: Tensor) -> Tensor:
    array = x.numpy()
    np.tanh(array, out=array)
    return x


# ------------------------------------------------------------------ elementwise operators in numpy


def _exp(x: Any) -> Any:
    return np.exp(x)


def _minimum(x: Any, y: Any) -> Any:
    return np.minimum(x, y)


def _maximum(x: Any, y: Any) -> Any:
    return np.maximum(x, y)


def _where(condition: Any, x: Any, y: Any) -> Any:
    return np.where(condition, x, y)


def _clamp(x: Any, low: Any = None, high: Any = None) -> Any:
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _tensor(x: Any) -> Tensor:
    return torch.from_numpy(x)


_IN_ARRAYS: dict[Any, Callable[..., Any]] = {
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
    aten.exp.default: _exp,
    aten.minimum.default: _minimum,
    aten.maximum.default: _maximum,
    aten.where.self: _where,
    aten.clamp.default: _clamp,
}


def _calculate_in_arrays(graph: fx.Graph) -> None:
    """Elementwise operators on few numbers; tensors and arrays share their memory, so that changing over is cheap."""
    written = {node.args[0] for node in _calls(graph) if _writes(node)}
    chosen = {node: None for node in _calls(graph) if node not in written and _fits_arrays(node)}
    arrays: dict[fx.Node, fx.Node] = {}  # of tensors

    def array_of(source: fx.Node) -> fx.Node:
        if source not in arrays:
            arrays[source] = graph.call_method("numpy", (source,))
        return arrays[source]

    for node in chosen:
        with graph.inserting_before(node):
            arguments = fx.node.map_arg(node.args, array_of)
            if node.target is aten.pow.Tensor_Scalar:
                arrays[node] = graph.call_function(operator.mul, (arguments[0], arguments[0]))
            else:
                arrays[node] = graph.call_function(_IN_ARRAYS[node.target], arguments)
            if any(user not in chosen for user in node.users):
                node.replace_all_uses_with(graph.call_function(_tensor, (arrays[node],)), lambda u: u not in chosen)


def _fits_arrays(node: Any) -> bool:
    square = node.target is aten.pow.Tensor_Scalar and node.args[1] == 2
    if node.kwargs or not (square or node.target in _IN_ARRAYS):
        return False
    value, sources = _value(node), [_value(source) for source in node.all_input_nodes]
    if value is None or value.dim() == 0 or value.numel() > _FEW_NUMBERS:
        return False
    return all(t is not None and t.dtype in (torch.float32, torch.bool) for t in (value, *sources))


def _write_products(graph: fx.Graph, places: Sequence[Tensor], constants: _Constants) -> None:
    """Outputs that are products of matrices go where they are wanted, so that nobody copies them there."""
    results: Any = next(node for node in reversed(graph.nodes) if node.op == "output").args[0]
    for result, place in zip(results, places, strict=False):
        value = _value(result)
        if value is None or result.target is not aten.mm.default or result.kwargs or value.dtype != place.dtype:
            continue
        result.kwargs = {"out": constants.add(place.view(value.shape))}


def _call_directly(graph: fx.Graph) -> None:
    for node in _calls(graph):
        if node.target is aten.pow.Tensor_Scalar and node.args[1] == 2:
            node.target, node.args = torch.square, node.args[:1]
        elif node.target is aten._to_copy.default and set(node.kwargs) == {"dtype"} and not _alike(node, node.args[0]):
            node.op, node.target, node.args, node.kwargs = "call_method", "to", (node.args[0], node.kwargs["dtype"]), {}
        elif node.target in _METHODS and not node.kwargs:
            node.op, node.target = "call_method", _METHODS[node.target]
            if len(node.args) == 2 and node.args[1]:
                node.args = (node.args[0], *node.args[1])  # which is quicker to call than with a list
        elif node.target in _DIRECT and "dtype" not in node.kwargs:
            node.target = _DIRECT[node.target]


def _alike(a: Any, b: Any) -> bool:
    """Whether the values of two nodes have one shape and dtype."""
    first, second = _value(a), _value(b)
    return first is not None and second is not None and (first.shape, first.dtype) == (second.shape, second.dtype)


def _value(node: Any) -> Tensor | None:
    """The (fake) tensor that a node had while it was recorded."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value if isinstance(value, Tensor) else None


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable) or node.target is _tanh_
