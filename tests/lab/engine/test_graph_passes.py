"""Each graph pass leaves the numbers of a graph as they are, and rewrites what it says and nothing else."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from lab.engine import graph_passes, numpy_ops
from lab.engine.graph_passes import Pass, Recording

aten = torch.ops.aten


class Example:
    """A recorded function of one parameter (4, 3) and some inputs, before and after a pass."""

    def __init__(self, function: Callable[..., list[Tensor]], *inputs: Tensor, places: Sequence[Tensor] = ()) -> None:
        self.parameter = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        self.inputs, self.places = list(inputs), places
        self.module = make_fx(function)(self.parameter, *inputs)
        self.recording = Recording(self.module.graph, [self.parameter], inputs, places)
        self.expected = [output.clone() for output in self.run()]

    def run(self) -> list[Tensor]:
        self.module.recompile()
        with np.errstate(all="ignore"):
            outputs: list[Tensor] = self.module(self.parameter, *self.inputs, *self.recording.added_inputs)
        return outputs

    def apply(self, *passes: Pass, tolerance: float = 0.0) -> list[Any]:
        """Apply passes, compare the numbers of two runs, and return what the graph calls then."""
        inputs = [t.clone() for t in self.inputs]
        for one in passes:
            one(self.recording)
            self.recording.erase_dead_calls()
        for _ in range(2):
            torch.testing.assert_close(self.run(), self.expected, rtol=tolerance, atol=tolerance, equal_nan=True)
        torch.testing.assert_close(self.inputs, inputs, rtol=0, atol=0, equal_nan=True)
        return self.targets

    @property
    def targets(self) -> list[Any]:
        return [node.target for node in self.recording.graph.nodes if node.op in ("call_function", "call_method")]


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------ remove_identities


def test_identities_are_removed() -> None:
    def function(p: Tensor, x: Tensor) -> list[Tensor]:
        same = x.detach().view(5, 3).expand(5, 3) * 1 / 1
        return [same.t().t().pow(1) + 2, torch.neg(torch.neg(x)).exp()]

    example = Example(function, numbers(5, 3))
    assert example.apply(graph_passes.remove_identities) == [aten.add.Tensor, aten.exp.default]


def test_factors_of_one_and_minus_one_are_removed_once_they_are_known() -> None:
    def function(p: Tensor, x: Tensor) -> list[Tensor]:
        ones = torch.ones_like(x)
        return [x * ones, -ones * x, torch.ones_like(p[0, 0]) * p]

    example = Example(function, numbers(5, 3))
    remaining = example.apply(graph_passes.hoist_constants, graph_passes.remove_identities)
    assert remaining == [aten.neg.default]


def test_what_changes_numbers_shapes_or_types_is_no_identity() -> None:
    def function(p: Tensor, x: Tensor) -> list[Tensor]:
        mask = x > 0
        return [x * 2, x.view(3, 5), x.t(), x[:1].expand(5, 3), mask * 1.0, x.pow(2), x * p[0], -x.t()]

    example = Example(function, numbers(5, 3))
    before = example.targets
    assert example.apply(graph_passes.remove_identities) == before


# ------------------------------------------------------------------ hoist_constants


def test_views_of_parameters_and_constants_are_made_once() -> None:
    def function(p: Tensor, x: Tensor) -> list[Tensor]:
        scale = -torch.ones_like(x[0]) / 4
        return [x @ p.t(), x + scale, x.new_zeros(2, 2)]

    example = Example(function, numbers(5, 3))
    remaining = example.apply(graph_passes.hoist_constants)
    assert remaining == [aten.mm.default, aten.add.Tensor]
    with torch.no_grad():
        example.parameter.mul_(2)  # the view follows
    example.expected[0] *= 2
    torch.testing.assert_close(example.run(), example.expected)


def test_what_depends_on_inputs_or_values_of_parameters_is_not_made_once() -> None:
    def function(p: Tensor, x: Tensor) -> list[Tensor]:
        total = torch.ones_like(x)
        total.add_(x)
        return [x.t(), p + 1, p.t() * 2, total]

    example = Example(function, numbers(5, 3))
    remaining = example.apply(graph_passes.hoist_constants)
    expected = [aten.ones_like.default, aten.add_.Tensor, aten.t.default, aten.add.Tensor, aten.mul.Tensor]
    assert sorted(map(str, remaining)) == sorted(map(str, expected))


# ------------------------------------------------------------------ sum_batches_by_products


def test_sums_over_rows_are_products() -> None:
    example = Example(lambda p, x: [x.sum([0], True)], numbers(64, 3))
    assert example.apply(graph_passes.sum_batches_by_products, tolerance=1e-5) == [aten.mm.default]
    assert [t.tolist() for t in example.recording.added_inputs] == [[[1.0] * 64]]


@pytest.mark.parametrize(
    "function",
    [
        lambda p, x: [x.sum([1], True)],
        lambda p, x: [x.sum([0])],
        lambda p, x: [x.sum([0], True, dtype=torch.float64)],
        lambda p, x: [x.double().sum([0], True)],
        lambda p, x: [x[None].sum([0], True)],
    ],
)
def test_other_sums_stay(function: Callable[..., list[Tensor]]) -> None:
    example = Example(function, numbers(64, 3))
    assert aten.sum.dim_IntList in example.apply(graph_passes.sum_batches_by_products)


# ------------------------------------------------------------------ average_vectors_by_products


def test_means_of_vectors_are_products() -> None:
    example = Example(lambda p, x: [x.mean(), (2 * x).mean()], numbers(64))
    remaining = example.apply(graph_passes.average_vectors_by_products, tolerance=1e-6)
    assert remaining == [aten.dot.default, aten.mul.Tensor, aten.dot.default]
    assert [t.tolist() for t in example.recording.added_inputs] == [[1 / 64] * 64] * 2


@pytest.mark.parametrize(
    "function",
    [
        lambda p, x: [x.view(8, 8).mean()],
        lambda p, x: [x.double().mean()],
        lambda p, x: [x.mean(dtype=torch.float64)],
    ],
)
def test_other_means_stay(function: Callable[..., list[Tensor]]) -> None:
    example = Example(function, numbers(64))
    assert aten.mean.default in example.apply(graph_passes.average_vectors_by_products)


# ------------------------------------------------------------------ compute_tanh_in_numpy


def test_tanh_is_numpys_and_in_place_on_products_of_its_own() -> None:
    def function(p: Tensor, x: Tensor) -> list[Tensor]:
        shared = x @ p.t()
        return [torch.tanh(x @ p.t()), torch.tanh(shared), shared, torch.tanh(x)]

    example = Example(function, numbers(64, 3))
    targets = example.apply(graph_passes.compute_tanh_in_numpy, tolerance=2e-6)
    assert (targets.count(numpy_ops.tanh_), targets.count(numpy_ops.tanh)) == (1, 2)
    assert aten.tanh.default not in targets


def test_tanh_of_doubles_stays() -> None:
    example = Example(lambda p, x: [torch.tanh(x)], numbers(64, 3).double())
    assert example.apply(graph_passes.compute_tanh_in_numpy) == [aten.tanh.default]


# ------------------------------------------------------------------ compute_elementwise_in_numpy

SPECIAL = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.3, 1e30, 1e-30, float("inf"), -float("inf"), float("nan"), 2.5, -7.0])


@pytest.mark.parametrize("target", numpy_ops.OPERATORS, ids=str)
def test_elementwise_operators_are_numpys(target: Any) -> None:
    """To the bit, but for exp."""
    x, y = SPECIAL.repeat(12), SPECIAL.repeat_interleave(12)
    arguments = {
        aten.where.self: lambda x, y: (x > y, x, y),
        aten.bitwise_or.Tensor: lambda x, y: (x > y, x < 0),
        aten.bitwise_and.Tensor: lambda x, y: (x > y, x < 0),
        aten.clamp.default: lambda x, y: (x, -0.5, 2.0),
        aten.neg.default: lambda x, y: (x,),
        aten.abs.default: lambda x, y: (x,),
        aten.exp.default: lambda x, y: (x,),
    }.get(target, lambda x, y: (x, 0.7) if str(target).endswith("Scalar") else (x, y))
    example = Example(lambda p, x, y: [target(*arguments(x, y))], x, y)
    targets = example.apply(
        graph_passes.compute_elementwise_in_numpy, tolerance=1e-6 if target is aten.exp.default else 0.0
    )
    assert target not in targets
    assert numpy_ops.OPERATORS[target] in targets


def test_chains_of_operators_change_over_once() -> None:
    def function(p: Tensor, x: Tensor) -> list[Tensor]:
        y = (x.pow(2) - 1).clamp(max=3.0) * (x > 0)
        return [y, y @ p.t()]

    example = Example(function, numbers(5, 3))
    targets = example.apply(graph_passes.compute_elementwise_in_numpy)
    assert targets.count("numpy") == 1
    assert targets.count(numpy_ops.to_tensor) == 1
    assert {operator.sub, operator.mul, operator.gt, numpy_ops.square, numpy_ops.clamp} <= set(targets)


@pytest.mark.parametrize(
    "function",
    [
        lambda p, x: [x.double() + 1],
        lambda p, x: [(x > 0) * 2.0],  # float32 in torch, float64 in numpy
        lambda p, x: [x.repeat(1000, 1) + 1],
        lambda p, x: [x.sum() + 1],
        lambda p, x: [torch.add(x, x, alpha=2)],
        lambda p, x: [x.long() + 1],
        lambda p, x: [(x + 1).mul_(2)],
    ],
    ids=["float64", "bool alone", "many numbers", "a scalar", "with alpha", "integers", "written to"],
)
def test_other_elementwise_operators_stay(function: Callable[..., list[Tensor]]) -> None:
    example = Example(function, numbers(5, 3))
    targets = example.apply(graph_passes.compute_elementwise_in_numpy)
    assert {aten.add.Tensor, aten.mul.Tensor} & set(targets)


# ------------------------------------------------------------------ write_products_to_places


def test_products_are_written_where_they_are_wanted() -> None:
    places = [torch.zeros(5, 4), torch.zeros(4)]
    example = Example(lambda p, x: [x @ p.t(), (x[:1] @ p.t())[0]], numbers(5, 3), places=places)
    assert aten.mm.out in example.apply(graph_passes.write_products_to_places)
    first, second = example.run()
    assert first.data_ptr() == places[0].data_ptr()
    assert torch.equal(places[0], first)
    assert second.data_ptr() != places[1].data_ptr()  # a view of a product is none


def test_outputs_that_are_no_products_or_of_another_type_stay() -> None:
    places = [torch.zeros(5, 3), torch.zeros(5, 4, dtype=torch.float64)]
    example = Example(lambda p, x: [x + 1, x @ p.t(), x @ p.t()], numbers(5, 3), places=places)
    before = example.targets
    assert example.apply(graph_passes.write_products_to_places) == before
    assert not any(place.any() for place in places)


# ------------------------------------------------------------------ call_directly


def test_operators_are_called_by_their_quickest_entry() -> None:
    def function(p: Tensor, x: Tensor) -> list[Tensor]:
        y = (x @ p.t()).relu().pow(2).view(4, 5)
        return [y.softmax(-1), y.log_softmax(-1), y[None].expand(2, 4, 5), (y > 1).to(torch.float32)]

    example = Example(function, numbers(5, 3))
    targets = example.apply(graph_passes.call_directly)
    assert {torch.mm, torch.relu, torch.square, torch.gt, "view", "expand", "to"} <= set(targets)
    assert not any(isinstance(target, type(aten.mm.default)) for target in targets)


def test_calls_that_mean_something_else_stay() -> None:
    def function(p: Tensor, x: Tensor) -> list[Tensor]:
        return [x.pow(3), x.sum(dtype=torch.float64), x.clone()]

    example = Example(function, numbers(5, 3))
    before = example.targets
    assert example.apply(graph_passes.call_directly) == before


# ------------------------------------------------------------------ all


def test_all_passes_together_and_each_left_out_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(p: Tensor, x: Tensor) -> list[Tensor]:
        hidden = torch.tanh(x @ p.t())
        loss = (hidden.sum(1) * torch.ones_like(x[:, 0]) - 1).pow(2).mean()
        return [torch.autograd.grad(loss, p)[0], loss]

    x, p = numbers(6, 3), numbers(4, 3, seed=2).requires_grad_()
    expected = function(p, x)
    everything = graph_passes.PASSES
    for left_out in (None, *dict.fromkeys(everything)):
        monkeypatch.setattr(graph_passes, "PASSES", [one for one in everything if one is not left_out])
        module, place = make_fx(function)(p, x), torch.zeros(4, 3)
        added = graph_passes.optimize_graph(module, [p.detach()], [x], [place])
        with torch.no_grad():
            torch.testing.assert_close(module(p.detach(), x, *added), [t.detach() for t in expected])


def test_passes_for_the_cpu_are_left_out_elsewhere() -> None:
    x = numbers(64, 3).to("meta")
    module = make_fx(lambda p, x: [torch.tanh(x @ p.t())])(torch.empty(4, 3, device="meta"), x)
    graph_passes.optimize_graph(module, [torch.empty(4, 3, device="meta")], [x])
    targets = [node.target for node in module.graph.nodes if node.op == "call_function"]
    assert targets == [torch.mm, torch.tanh]
