"""The gradient check: errors by hand, slopes of known functions, kinks, wrong backward functions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lab.config.overrides import resolve
from lab.diagnostics.examine import examine
from lab.diagnostics.gradient_check import relative_error, slope_error
from lab.supervised.supervised import Supervised, SupervisedConfig


def test_relative_errors_by_hand() -> None:
    assert relative_error(1.0, 1.0) == 0
    assert relative_error(1.0, 0.5) == pytest.approx(1 / 3)
    assert relative_error(1.0, -1.0) == 1
    assert relative_error(0.0, 1e-9) == pytest.approx(1e-3)  # what cannot be told from rounding counts less
    assert relative_error(math.nan, 1.0) == math.inf


@pytest.mark.parametrize("gradient", [1.0, 0.5, -1.0, 0.0])
def test_slopes_are_those_of_the_function(gradient: float) -> None:
    """f(w) = w_0 exp(w_1): autograd's gradient is right, and `gradient` times it is not."""
    w = torch.tensor([[0.7, -0.3]], dtype=torch.float64)

    def value() -> float:
        return float(w[0, 0] * w[0, 1].exp())

    for index, right in enumerate([math.exp(-0.3), 0.7 * math.exp(-0.3)]):
        error, slope = slope_error(value, value(), w, index, gradient * right)
        assert slope == pytest.approx(right, rel=1e-6)
        assert error == pytest.approx(abs(gradient - 1) / (abs(gradient) + 1), abs=1e-5)
    assert w.tolist() == [[0.7, -0.3]]


@pytest.mark.parametrize(("gradient", "right"), [(0.0, True), (1.0, True), (0.5, True), (2.0, False), (-1.0, False)])
def test_at_a_kink_the_gradient_of_either_side_is_right(gradient: float, right: bool) -> None:
    w = torch.zeros(1, dtype=torch.float64)

    def value() -> float:
        return float(w.relu())

    error, _ = slope_error(value, value(), w, 0, gradient)
    assert (error < 1e-6) is right


class _Scaled(torch.autograd.Function):
    """The identity, whose backward function is wrong by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return 0.8 * gradient


def _hook(function: Any) -> Any:
    def build(config: SupervisedConfig, spec: Any) -> Supervised:
        learner = Supervised(config, spec)
        learner.net.features.register_forward_hook(lambda module, inputs, output: function(output))
        return learner

    return build


@pytest.mark.slow
@pytest.mark.parametrize("function", [_Scaled.apply, Tensor.detach], ids=["scaled", "detached"])
def test_a_gradient_that_is_scaled_or_cut_is_named(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SupervisedConfig, "build", _hook(function))
    findings = {finding.name: finding for finding in examine(resolve("regression/diabetes", []))}
    check = findings["gradient check"]
    assert check.verdict == "wrong"
    assert "features.backbone" in check.sentence
    expected = 0.2 / 1.8 if function == _Scaled.apply else 1.0
    assert check.numbers["net/largest_relative_error"] == pytest.approx(expected, rel=1e-3)
    assert (findings["gradients"].verdict == "warning") is (function is Tensor.detach)


def test_the_learner_that_is_checked_stays_as_it_is() -> None:
    from lab.diagnostics.replay import Replay
    from lab.diagnostics.warm_up import warm_up

    experiment = resolve("regression/diabetes", [])
    data = experiment.data.build(0)
    learner = experiment.module.build(data.spec)
    trained = warm_up(experiment, data, learner, num_updates=3)
    before, noise = [p.detach().clone() for p in learner.parameters()], torch.get_rng_state()
    replay = Replay(learner, "net", trained.records["net"], double=True)
    assert replay.gradients()[0].dtype == torch.float64
    assert replay.value() == replay.value()
    assert all(torch.equal(a, b) for a, b in zip(before, learner.parameters(), strict=True))
    assert torch.equal(noise, torch.get_rng_state())
    assert isinstance(learner.net, nn.Module)
    assert next(learner.parameters()).dtype == torch.float32
