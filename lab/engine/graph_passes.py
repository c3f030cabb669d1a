"""Graph passes: rewrites of a recorded graph of operators (tracing.py) that leave its numbers as they are.

They pay for small networks on a CPU above all; `benchmarks/update_engines.py` shows what each of them is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lab.engine import numpy_ops
from lab.engine.torch_private import DIRECT_SOFTMAX, to_copy, writes_arguments

aten = torch.ops.aten

_SMALL = 2**13  # numbers
_VIEWS = (aten.t.default, aten.transpose.int, aten.view.default, aten.unsqueeze.default, aten.expand.default)
_HOISTED = (
    *_VIEWS,
    aten.neg.default,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.div.Scalar,
    aten.add.Tensor,
    aten.sub.Tensor,
)
_COPIES = (aten.view.default, aten.expand.default)
_INVOLUTIONS = (aten.t.default, aten.neg.default)
_IDENTITIES_BY_ONE = (aten.pow.Tensor_Scalar, aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor)
_PRODUCTS = (aten.addmm.default, aten.mm.default)
_METHODS = {aten.view.default: "view", aten.expand.default: "expand"}
_DIRECT: dict[Any, Callable[..., Any]] = {
    aten.addmm.default: torch.addmm,
    aten.mm.default: torch.mm,
    aten.mm.out: torch.mm,
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
    aten.dot.default: torch.dot,
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
    **DIRECT_SOFTMAX,
}


class Recording:
    """A recorded graph, and what passes know of the values of its nodes.

    Args:
        graph: its placeholders are the parameters and then the inputs.
        parameters: tensors that are changed in place between two runs of the graph.
        inputs: those that it was recorded with; others of their shapes take their place.
        places: memory for the first outputs.
    """

    def __init__(
        self, graph: fx.Graph, parameters: Sequence[Tensor], inputs: Sequence[Tensor], places: Sequence[Tensor] = ()
    ) -> None:
        self.graph, self.places = graph, places
        self.on_cpu = all(t.device.type == "cpu" for t in inputs)
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        for node, value in zip(placeholders, [*parameters, *inputs], strict=True):
            node.meta["val"] = value
        self.parameters: dict[fx.Node, Tensor] = dict(zip(placeholders, parameters, strict=False))  # and their views
        self.constants: dict[fx.Node, Tensor] = {}  # whose values never change
        self.added_inputs: list[Tensor] = []  # which the graph takes after its inputs
        self._last_placeholder = placeholders[-1]

    def add_input(self, value: Tensor) -> fx.Node:
        """A tensor made once as a further input of the graph, which is quicker to read than an attribute."""
        with self.graph.inserting_after(self._last_placeholder):
            node = self._last_placeholder = self.graph.placeholder(f"added_{len(self.added_inputs)}")
        node.meta["val"] = value
        self.added_inputs.append(value)
        return node

    def calls(self) -> list[Any]:
        """The nodes that call a function, in the order in which they run."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    def erase_dead_calls(self) -> None:
        """Erase the calls whose results nobody uses."""
        for node in reversed(self.calls()):
            if not node.users and not _writes(node):
                self.graph.erase_node(node)


Pass = Callable[[Recording], None]


def optimize_graph(
    graph_module: fx.GraphModule, parameters: Sequence[Tensor], inputs: Sequence[Tensor], places: Sequence[Tensor] = ()
) -> list[Tensor]:
    """Apply all passes to a graph, in place (see Recording for its arguments).

    Returns:
        The tensors that the graph takes after its inputs.
    """
    recording = Recording(graph_module.graph, parameters, inputs, places)
    for graph_pass in PASSES:
        if recording.on_cpu or graph_pass not in CPU_PASSES:
            graph_pass(recording)
            recording.erase_dead_calls()
    for node in graph_module.graph.nodes:
        node.meta.clear()  # it holds on to tensors
    graph_module.recompile()
    return recording.added_inputs


def remove_identities(recording: Recording) -> None:
    """Remove what gives its argument back: detach, views of the same shape, factors and powers of one, two transposes
    or two negations in a row; a factor of minus one is a negation. Exact to the bit, on all devices.
    """
    for node in recording.calls():
        source: Any = node.args[0] if node.args else None
        if node.target is aten.detach.default:
            node.replace_all_uses_with(source)
        elif node.target is aten.mul.Tensor and isinstance(node.args[1], fx.Node):
            _remove_constant_factor(recording, node)
        elif node.target in _INVOLUTIONS and isinstance(source, fx.Node) and source.target is node.target:
            node.replace_all_uses_with(source.args[0])
        elif _alike(node, source) and (
            node.target in _COPIES or (node.target in _IDENTITIES_BY_ONE and node.args[1] == 1)
        ):
            node.replace_all_uses_with(source)


def _remove_constant_factor(recording: Recording, node: Any) -> None:
    """A product with ones, or with minus ones."""
    for factor, other in (node.args, node.args[::-1]):
        if factor not in recording.constants or not _alike(node, other):
            continue
        value = recording.constants[factor]
        if bool((value == 1).all()):
            node.replace_all_uses_with(other)
            return
        if bool((value == -1).all()):
            with recording.graph.inserting_before(node):
                negated = recording.graph.call_function(aten.neg.default, (other,))
            negated.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(negated)
            return


def hoist_constants(recording: Recording) -> None:
    """Make once, outside of the graph, what no input changes: views of parameters, which follow them since these are
    changed in place; ones and zeros, with which a gradient begins; and what is computed from constants alone. Nothing
    that is written to is hoisted. Exact to the bit, on all devices.
    """
    written = {node.args[0] for node in recording.calls() if _writes(node)}
    for node in recording.calls():
        if node in written or any(user in written for user in node.users):
            continue
        if node.target in _VIEWS and node.args[0] in recording.parameters:
            view = node.target(recording.parameters[node.args[0]], *node.args[1:])
            hoisted = recording.add_input(view)
            recording.parameters[hoisted] = view
        elif (constant := _constant(recording, node)) is not None:
            hoisted = recording.add_input(constant)
            recording.constants[hoisted] = constant
        else:
            continue
        node.replace_all_uses_with(hoisted)


def _constant(recording: Recording, node: Any) -> Tensor | None:
    """The value of a node that never changes."""
    like = _value(node)
    if node.target is aten.ones_like.default and like is not None:
        return torch.ones(like.shape, dtype=like.dtype, device=like.device)
    if node.target is aten.new_zeros.default and like is not None:
        return torch.zeros(like.shape, dtype=like.dtype, device=like.device)
    if node.target in _HOISTED and not node.kwargs and all(n in recording.constants for n in node.all_input_nodes):
        value: Tensor = node.target(*fx.node.map_arg(node.args, recording.constants.__getitem__))
        return value
    return None


def sum_batches_by_products(recording: Recording) -> None:
    """The sum over the rows of a float32 matrix (B, N), as a bias has for gradient, becomes ones (1, B) @ matrix, which
    takes a CPU a fraction of the time. Equal but for the order of the sum (1e-6 of its terms). CPU.
    """
    for node in recording.calls():
        if node.target is not aten.sum.dim_IntList or node.kwargs:
            continue
        source, dims, *keepdim = node.args
        value = _value(source)
        if dims != [0] or keepdim != [True] or value is None or value.dim() != 2 or value.dtype != torch.float32:
            continue
        ones = recording.add_input(torch.ones(1, value.shape[0]))
        with recording.graph.inserting_before(node):
            node.replace_all_uses_with(recording.graph.call_function(aten.mm.default, (ones, source)))


def average_vectors_by_products(recording: Recording) -> None:
    """The mean of a float32 vector (B,), as a metric is, becomes its product with a vector of 1 / B, which takes a CPU
    a third of the time. Equal but for the order of the sum (1e-6 of its terms). CPU.
    """
    for node in recording.calls():
        value = _value(node.args[0]) if node.target is aten.mean.default and not node.kwargs else None
        if value is None or value.dim() != 1 or value.dtype != torch.float32 or not len(value):
            continue
        shares = recording.add_input(torch.full((len(value),), 1 / len(value)))
        with recording.graph.inserting_before(node):
            node.replace_all_uses_with(recording.graph.call_function(aten.dot.default, (node.args[0], shares)))


def compute_tanh_in_numpy(recording: Recording) -> None:
    """tanh of float32 numbers by numpy (numpy_ops.py): within 1e-7 in a tenth of the time; in place where its argument
    is a product of matrices that nothing else uses. CPU, whose memory numpy shares.
    """
    for node in recording.calls():
        value, source = _value(node), node.args[0] if node.args else None
        if node.target is aten.tanh.default and value is not None and value.dtype == torch.float32:
            alone = isinstance(source, fx.Node) and source.target in _PRODUCTS and len(source.users) == 1
            tanh = numpy_ops.tanh_ if alone else numpy_ops.tanh
            with recording.graph.inserting_before(node):
                node.replace_all_uses_with(recording.graph.call_function(tanh, node.args))


def compute_elementwise_in_numpy(recording: Recording) -> None:
    """Elementwise operators on few float32 or bool numbers by numpy (numpy_ops.py), whose calls take a third of the
    time: the same to the bit, but for exp (1e-7). CPU, whose memory numpy shares.
    """
    graph = recording.graph
    written = {node.args[0] for node in recording.calls() if _writes(node)}
    chosen = {node: None for node in recording.calls() if node not in written and _fits_numpy(node)}
    arrays: dict[fx.Node, fx.Node] = {}  # of tensors

    def array_of(source: fx.Node) -> fx.Node:
        if source not in arrays:
            arrays[source] = graph.call_method("numpy", (source,))
        return arrays[source]

    for node in chosen:
        with graph.inserting_before(node):
            arguments = fx.node.map_arg(node.args, array_of)
            if node.target is aten.pow.Tensor_Scalar:
                arrays[node] = graph.call_function(numpy_ops.square, arguments[:1])
            else:
                arrays[node] = graph.call_function(numpy_ops.OPERATORS[node.target], arguments)
            if any(user not in chosen for user in node.users):
                tensor = graph.call_function(numpy_ops.to_tensor, (arrays[node],))
                node.replace_all_uses_with(tensor, lambda user: user not in chosen)


def _fits_numpy(node: Any) -> bool:
    square = node.target is aten.pow.Tensor_Scalar and node.args[1] == 2
    if node.kwargs or not (square or node.target in numpy_ops.OPERATORS):
        return False
    value, sources = _value(node), [_value(source) for source in node.all_input_nodes]
    if value is None or value.dim() == 0 or value.numel() > _SMALL:
        return False
    types = {None if t is None else t.dtype for t in sources}
    if value.dtype == torch.float32 and torch.float32 not in types:
        return False  # numbers made of bool alone are float64 in numpy
    return types | {value.dtype} <= {torch.float32, torch.bool}


def write_products_to_places(recording: Recording) -> None:
    """Outputs that are products of matrices are written to their places, so that nobody copies them there. Exact to the
    bit, on all devices.
    """
    results: Any = next(node for node in reversed(recording.graph.nodes) if node.op == "output").args[0]
    for result, place in zip(results, recording.places, strict=False):
        value = _value(result)
        if value is None or result.target is not aten.mm.default or value.dtype != place.dtype:
            continue
        result.target, result.kwargs = aten.mm.out, {"out": recording.add_input(place.view(value.shape))}


def call_directly(recording: Recording) -> None:
    """Call operators by the entries of torch and of Tensor that take half the time of those that a recording names.
    Exact to the bit, on all devices.
    """
    for node in recording.calls():
        if node.target is aten.pow.Tensor_Scalar and node.args[1] == 2:
            node.target, node.args = torch.square, node.args[:1]
        elif node.target is to_copy and set(node.kwargs) == {"dtype"} and not _alike(node, node.args[0]):
            node.op, node.target, node.args, node.kwargs = "call_method", "to", (node.args[0], node.kwargs["dtype"]), {}
        elif node.target in _METHODS and not node.kwargs:
            node.op, node.target = "call_method", _METHODS[node.target]
            if len(node.args) == 2 and node.args[1]:
                node.args = (node.args[0], *node.args[1])  # which is quicker to call than with a list
        elif node.target in _DIRECT and "dtype" not in node.kwargs:
            node.target = _DIRECT[node.target]


PASSES: tuple[Pass, ...] = (
    remove_identities,
    hoist_constants,
    remove_identities,  # of factors that are known now
    sum_batches_by_products,
    average_vectors_by_products,
    compute_tanh_in_numpy,
    compute_elementwise_in_numpy,
    write_products_to_places,
    call_directly,
)
"""in the order in which they are applied"""

CPU_PASSES: frozenset[Pass] = frozenset(
    {
        sum_batches_by_products,
        average_vectors_by_products,
        compute_tanh_in_numpy,
        compute_elementwise_in_numpy,
    }
)
"""applied only where all inputs are on the CPU"""


def _alike(a: Any, b: Any) -> bool:
    """Whether the values of two nodes have one shape and dtype."""
    first, second = _value(a), _value(b)
    return first is not None and second is not None and (first.shape, first.dtype) == (second.shape, second.dtype)


def _value(node: Any) -> Tensor | None:
    """The (fake) tensor that a node had while it was recorded."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value if isinstance(value, Tensor) else None


def _writes(node: fx.Node) -> bool:
    return writes_arguments(node.target) or node.target is numpy_ops.tanh_
