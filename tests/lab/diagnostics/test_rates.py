"""The learning-rate range test against curves and quadratics whose rates are known, and on recipes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lab.config.overrides import resolve
from lab.diagnostics.rates import descend, range_test, smooth, suggest
from lab.engine.loss import Loss
from lab.engine.optimizers import OptimizerConfig
from lab.engine.updater import Updater
from lab.errors import UserError

Lab = Callable[..., Any]


class Points(NamedTuple):
    x: Tensor


def test_smoothing_is_the_weighted_mean_of_a_slow_loop() -> None:
    losses = [3.0, 1.0, 2.0, 5.0]
    for i, value in enumerate(smooth(losses, 0.8)):
        weights = [0.8 ** (i - j) for j in range(i + 1)]
        assert value == pytest.approx(np.average(losses[: i + 1], weights=weights))


def test_suggestions_of_a_curve_that_is_known() -> None:
    rates = np.geomspace(1e-7, 10, 400)
    log = np.log10(rates)
    falling = 1 / (1 + np.exp(4 * (log + 3)))  # most steeply at 1e-3
    steepest, tenth = suggest(rates, falling + np.exp(6 * (log + 0.5)))  # type: ignore[misc]
    assert steepest == pytest.approx(1e-3, rel=0.1)
    least = rates[(falling + np.exp(6 * (log + 0.5))).argmin()]
    assert tenth == pytest.approx(least / 10)
    assert suggest(rates, log) is None
    assert suggest(rates[:5], -log[:5]) is None


def test_descent_of_a_parabola_diverges_above_two_over_its_curvature() -> None:
    point, curvature = nn.Linear(1, 1, bias=False), 50.0
    nn.init.constant_(point.weight, 1.0)

    def loss(batch: Points) -> Loss:
        value = 0.5 * curvature * point(batch.x).square().mean() + 1
        return Loss(value, {"loss": value.detach()})

    updater = Updater(point, loss, OptimizerConfig(name="sgd", lr=0.01, momentum=0.0))
    rates = np.geomspace(1e-4, 10, 100)
    curve = descend(updater, [Points(torch.ones(1, 1))], rates)
    assert curve is not None
    weight, expected = 1.0, []
    for rate in curve.rates:
        expected.append(0.5 * curvature * weight**2 + 1)
        weight -= rate * curvature * weight
    assert curve.losses == pytest.approx(expected, rel=1e-3)
    assert curve.diverged
    assert 2 / curvature < curve.rates[-1] < 20 / curvature
    assert curve.configured == 0.01
    assert "apply" not in vars(updater)
    assert updater.loss is loss


@pytest.mark.parametrize(("low", "high", "num"), [(1.0, 0.1, 100), (0.0, 1.0, 100), (1e-3, 1.0, 5)])
def test_rates_that_make_no_sense_are_refused(low: float, high: float, num: int) -> None:
    with pytest.raises(UserError, match="give 0 < --low < --high, and 30"):
        range_test(resolve("regression/diabetes", []), low, high, num)


def test_what_has_no_rates_says_so() -> None:
    for words in (["module.optimizer.name=lbfgs", "module.optimizer.weight_decay=0"],):
        with pytest.raises(UserError, match="no updates whose rate could be tried"):
            range_test(resolve("regression/diabetes", words), 1e-4, 1.0, 50)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["regression/diabetes", "dqn/cartpole", "ppo/cartpole", "gan/digits"])
def test_a_range_test_is_a_function_of_the_seed(recipe: str) -> None:
    first, again, other = (
        range_test(resolve(recipe, [f"seed={seed}", *few(recipe)]), 1e-6, 10, 40) for seed in (1, 1, 2)
    )
    for name, curve in first.items():
        assert curve is not None
        assert np.array_equal(curve.losses, again[name].losses)  # type: ignore[union-attr]
        assert not np.array_equal(curve.losses, other[name].losses)  # type: ignore[union-attr]
        assert curve.rates[: len(curve.losses)] == pytest.approx(np.geomspace(1e-6, 10, 40)[: len(curve.losses)])
    assert set(first) == ({"generator", "discriminator"} if recipe == "gan/digits" else set(first))


def few(recipe: str) -> list[str]:
    return ["data.learning_starts=100"] if recipe.startswith("dqn") else []


@pytest.mark.slow
def test_the_command_prints_a_curve_and_what_follows_from_it(lab: Lab, tmp_path: Path) -> None:
    done = lab("rates", "regression/diabetes", "--updates", "60", "--out", str(tmp_path / "rates.png"))
    assert done.code == 0
    assert "it falls most steeply at" in done.out
    assert Image.open(tmp_path / "rates.png").width > 300
    told = json.loads(lab("rates", "regression/diabetes", "--updates", "60", "--json").out, parse_constant=pytest.fail)
    net = told["updaters"]["net"]
    assert net["configured"] == resolve("regression/diabetes", []).module.optimizer.lr  # type: ignore[attr-defined]
    assert 1e-5 < net["suggestion"]["steepest"] < 10
    assert math.isfinite(sum(net["losses"]))
    refused = lab("rates", "regression/diabetes", "--out", str(tmp_path / "rates.pdf"))
    assert refused.code == 2
    assert not (tmp_path / "rates.pdf").exists()
