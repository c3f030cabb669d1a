"""Single checks against what is known by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lab.config.overrides import resolve
from lab.diagnostics.inputs import check_inputs
from lab.diagnostics.supervised import (
    check_first_loss,
    expected_loss,
    first_loss_of_text,
    judge_first_loss,
    split_sample,
)
from lab.diagnostics.updates import check_missing_gradients, check_rates
from lab.diagnostics.warm_up import Record, WarmUp, warm_up
from lab.training.health.outputs import Outputs

CNN = "classifier/digits-cnn"


def record(**values: Any) -> WarmUp:
    """A warm-up of one updater with a matrix and a vector."""
    shapes = [torch.Size((2, 2)), torch.Size((2,))]
    whole = Record(["weight", "bias"], shapes, 0.1, losses=[1.0], **{"largest": torch.ones(2), **values})
    return WarmUp(SimpleNamespace(), {"net": whole})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ratio", "verdict", "word"),
    [(1e-3, "ok", "1.0e-03"), (0.5, "wrong", "too high"), (1e-6, "wrong", "too low"), (0.0, "not applicable", "no")],
)
def test_rates_are_judged_by_matrices(ratio: float, verdict: str, word: str) -> None:
    finding = check_rates(record(ratios=[torch.tensor([ratio, math.nan], dtype=torch.float64)] * 3))
    assert finding.verdict == verdict
    assert word in finding.sentence


def test_ratios_of_plain_descent_are_the_rate_times_gradient_over_weight() -> None:
    experiment = resolve("regression/diabetes", ["module.optimizer.name=sgd", "module.optimizer.weight_decay=0"])
    data = experiment.data.build(0)
    learner = experiment.module.build(data.spec)
    learner.updater.optimizer.param_groups[0]["momentum"] = 0.0
    before = [float(p.detach().norm()) for p in learner.updater.parameters]
    norms: list[list[float]] = []
    inner = learner.updater.gradients

    def gradients(batch: Any) -> Any:
        result = inner(batch)
        norms.append([float(gradient.norm()) for gradient in result[0]])
        return result

    learner.updater.gradients = gradients
    trained = warm_up(experiment, data, learner, num_updates=1)
    ratios = [experiment.module.optimizer.lr * g / w for g, w in zip(norms[0], before, strict=True)]  # type: ignore[attr-defined]
    assert trained.records["net"].ratios[0].tolist() == pytest.approx(ratios, rel=1e-3)


def test_gradients_that_are_absent_zero_or_not_finite() -> None:
    assert check_missing_gradients(record()).verdict == "ok"
    assert "bias gets no gradient" in check_missing_gradients(record(unused=["bias"])).sentence
    zero, strange = (record(largest=torch.tensor([first, 1.0])) for first in (0.0, math.nan))
    assert check_missing_gradients(record(largest=torch.tensor([1.0, 0.0]))).verdict == "ok"
    assert "weight was 0" in check_missing_gradients(zero).sentence
    assert "weight is not finite" in check_missing_gradients(strange).sentence


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0, 1, "ok"), (-1, 1, "ok"), (-3, 3, "ok"), (0, 255, "warning"), (100, 101, "warning"), (0, 1e-4, "warning")],
)
def test_inputs_are_judged_by_mean_and_spread(low: float, high: float, verdict: str) -> None:
    x = low + (high - low) * torch.rand(100, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    finding = check_inputs(x)
    assert finding.verdict == verdict
    assert finding.numbers["mean"] == pytest.approx((low + high) / 2, rel=0.1, abs=0.1)


def test_columns_of_a_table_are_judged_one_by_one() -> None:
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    assert check_inputs(x).verdict == "ok"
    assert check_inputs(x * torch.tensor([1.0, 0.0, 1.0])).verdict == "ok"  # one that is always the same
    assert "input 1 has" in check_inputs(x + torch.tensor([0.0, 50.0, 0.0])).sentence
    assert check_inputs(x / 0).verdict == "wrong"
    assert check_inputs(None).verdict == "not applicable"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "overrides", "expected"),
    [
        (CNN, [], math.log(10)),
        (CNN, ["module.task.loss=hinge"], 9.0),
        (CNN, ["module.task.loss=squared_hinge"], 9.0),
        (CNN, ["module.task.loss=squared"], 0.9),
        (CNN, ["module.task.loss=exponential"], 9.0),
        ("multi-label/digits", ["module.backbone.channels=[4]"], math.log(2)),
        ("multi-label/digits", ["module.backbone.channels=[4]", "module.task.loss=hinge"], 1.0),
        ("regression/diabetes", [], 1.0),
    ],
)
def test_first_losses_are_the_known_ones(recipe: str, overrides: list[str], expected: float) -> None:
    experiment = resolve(recipe, overrides)
    data = experiment.data.build(0)
    torch.manual_seed(0)
    learner = experiment.module.build(data.spec)
    batch = split_sample(data, 300)
    assert expected_loss(learner.task, learner.net(batch.x), batch.y) == pytest.approx(expected, rel=0.1)
    finding = check_first_loss(learner, batch)
    assert finding.verdict == "ok"
    with torch.no_grad():
        for parameter in learner.net.task.head.parameters():
            parameter.mul_(200)
    assert check_first_loss(learner, batch).verdict in ("warning", "wrong")


@pytest.mark.parametrize(
    ("value", "verdict"), [(2.4, "ok"), (3.5, "warning"), (1.2, "warning"), (9.0, "wrong"), (math.nan, "wrong")]
)
def test_first_losses_are_judged_by_how_far_they_are_off(value: float, verdict: str) -> None:
    assert judge_first_loss(value, math.log(10)).verdict == verdict


@pytest.mark.slow
def test_the_first_loss_of_text_is_that_of_equal_characters() -> None:
    experiment = resolve("lm/reference-gru", ["module.backbone.hidden=16"])
    data = experiment.data.build(0)
    learner = experiment.module.build(data.spec)
    finding = first_loss_of_text(warm_up(experiment, data, learner, num_updates=1))
    assert finding.verdict == "ok"
    assert finding.numbers["expected"] == pytest.approx(math.log(len(learner.alphabet)))


def test_saturated_outputs_and_sizes_are_counted() -> None:
    net, outputs = nn.Sequential(nn.Linear(1, 4, bias=False), nn.Tanh(), nn.Linear(4, 1)), Outputs()
    net[0].weight.data = torch.tensor([[0.1], [0.2], [5.0], [-5.0]])  # type: ignore[union-attr]
    with outputs.watching(net):
        net(torch.ones(3, 1))
    assert outputs.saturated == {"1": 0.5}
    assert outputs.sizes["0"] == pytest.approx(math.sqrt((0.01 + 0.04 + 25 + 25) / 4))
