"""Regression on tables: the loss and the scores by hand, a line that is found, an export that takes raw rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab.backbones import BackboneConfig
from lab.backbones.features import FeatureSpec
from lab.config.overrides import resolve
from lab.data.spec import DataSpec, TensorSpec
from lab.data.targets import Classes, RealValues, Symbols
from lab.errors import UserError
from lab.supervised.predictor import Predictor
from lab.supervised.supervised import SupervisedConfig
from lab.supervised.tasks.regression import Regression, RegressionConfig
from lab.training.restore import restore
from lab.training.train import train

TARGET = RealValues(("a", "b"), (10.0, -2.0), (4.0, 0.5))
FEATURES = FeatureSpec("vector", ((3,),))


def scores_of(predictions: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    target = RealValues(("a", "b")).fitted(y.numpy())
    scores = Regression(RegressionConfig(), target, FEATURES).scores()
    scores.update(predictions, y)
    return {name: float(value) for name, value in scores.compute().items()}


@pytest.mark.parametrize("loss", ["l2", "l1", "smooth_l1"])
def test_losses_are_of_standardized_values(loss: Any) -> None:
    torch.manual_seed(0)
    task = Regression(RegressionConfig(loss=loss, beta=0.7), TARGET, FEATURES)
    outputs, y = torch.randn(6, 2), torch.randn(6, 2).double() * 5
    standard = (y - torch.tensor([10.0, -2.0])) / torch.tensor([4.0, 0.5])
    error = (outputs - standard).abs()
    by_hand = {
        "l2": error.square(),
        "l1": error,
        "smooth_l1": torch.where(error < 0.7, 0.5 * error.square() / 0.7, error - 0.35),
    }[loss].mean()
    value, metrics, _ = task.loss(outputs, y)
    assert value == pytest.approx(by_hand.item(), rel=1e-6)
    assert metrics[loss] == value
    assert torch.allclose(task.predictions(standard), y, atol=1e-5)


@pytest.mark.slow
def test_scores_are_those_of_scikit_learn() -> None:
    from sklearn import metrics

    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 2)) * [1, 30]
    predictions = y + rng.normal(size=y.shape) * [0.3, 20]
    for offset in (0.0, 1e6):
        scores = scores_of(torch.tensor(predictions) + offset, torch.tensor(y) + offset)
        assert scores["r2"] == pytest.approx(metrics.r2_score(y, predictions), rel=1e-6)
        assert scores["rmse"] == pytest.approx(metrics.root_mean_squared_error(y, predictions))
    table = Regression(RegressionConfig(), TARGET, FEATURES).table(torch.tensor(predictions), torch.tensor(y))
    assert [row["r2"] for row in table.values()] == pytest.approx(
        metrics.r2_score(y, predictions, multioutput="raw_values")
    )
    assert [row["mae"] for row in table.values()] == pytest.approx(
        metrics.mean_absolute_error(y, predictions, multioutput="raw_values")
    )


def test_bins_are_learned_by_nearness() -> None:
    """Imani and White 2018, two neighbours: the targets' mean is the target, and the mean of the bins is predicted."""
    task = Regression(RegressionConfig(loss="binned", bins=9), TARGET, FEATURES)  # centres -4, -3, ... 4
    y = torch.tensor([[10.0 + 4 * 0.25, -2.0 + 0.5 * 5]])  # 0.25 and 5 standard deviations above the mean
    logits = torch.randn(1, 2, 9)
    log_p = logits.log_softmax(2)[0]
    expected = -(0.75 * log_p[0, 4] + 0.25 * log_p[0, 5] + log_p[1, 8]) / 2
    torch.testing.assert_close(task.loss(logits, y).value, expected)
    sharp = torch.full((1, 2, 9), -1e4)
    sharp[0, 0, 4:6], sharp[0, 1, 8] = torch.tensor([0.75, 0.25]).log(), 0.0
    torch.testing.assert_close(task.predictions(sharp), torch.tensor([[11.0, 0.0]]).double())


@pytest.mark.parametrize("value", [3.0, 0.1])
def test_a_constant_target_scores_as_in_scikit_learn(value: float) -> None:
    y = torch.full((5, 2), value, dtype=torch.float64)
    table = Regression(RegressionConfig(), TARGET, FEATURES).table
    for predictions, r2 in ((y, 1.0), (y + 1, 0.0)):
        assert scores_of(predictions, y)["r2"] == r2
        assert [row["r2"] for row in table(predictions, y).values()] == [r2, r2]


def test_targets_of_a_small_unit_are_scored_alike() -> None:
    y, unit = torch.randn(50, 1, dtype=torch.float64), 1e-9
    predictions = y + 0.5 * torch.randn(50, 1, dtype=torch.float64)
    small = Regression(RegressionConfig(), RealValues(("a",), (0.0,), (unit,)), FEATURES).scores()
    small.update(predictions * unit, y * unit)
    whole = float(1 - (predictions - y).square().sum() / (y - y.mean()).square().sum())
    assert float(small.compute()["r2"]) == pytest.approx(whole)
    assert float(small.compute()["rmse"]) == pytest.approx(unit * float((predictions - y).square().mean().sqrt()))


def test_other_targets_and_inputs_are_refused() -> None:
    row = TensorSpec((3,))
    with pytest.raises(UserError, match="these data hold Symbols"):
        SupervisedConfig().build(DataSpec(row, target=Symbols("ab")))
    with pytest.raises(UserError, match=r"module\.task\.kind='regression' predicts RealValues; these data hold Class"):
        SupervisedConfig(task=RegressionConfig()).build(DataSpec(row, target=Classes(3)))
    with pytest.raises(UserError, match="needs images or rows of numbers"):
        SupervisedConfig().build(DataSpec(TensorSpec((2, 3, 4, 5)), target=TARGET))
    with pytest.raises(UserError, match=r"'mlp' reads no sequences\. Valid choices: bidirectional, gru, "):
        SupervisedConfig().build(DataSpec(TensorSpec((3, 4)), target=TARGET))
    with pytest.raises(UserError, match="'gru' reads sequences"):
        SupervisedConfig(backbone=BackboneConfig(name="gru")).build(DataSpec(row, target=TARGET))


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run on y = 3 a - 2 [b = u] + 100, in large units."""
    folder = tmp_path_factory.mktemp("line")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=300) * 50 + 1e4, rng.choice(["u", "v"], 300)
    lines = [
        f"{x!r},{word},{3 * x - 200 * (word == 'u') + 100!r}" for x, word in zip(a.tolist(), b.tolist(), strict=True)
    ]
    (folder / "t.csv").write_text("a,b,y\n" + "\n".join(lines) + "\n")
    words = [f"data.name={folder / 't.csv'}", "trainer.budget=20000", "tracking.mode=disabled", "trainer.num_threads=1"]
    words += ["module.optimizer.weight_decay=0", "module.backbone.hidden=[16]"]
    return train(resolve("regression/diabetes", words), run_dir=folder / "run")


@pytest.mark.slow
def test_a_line_is_found(line: Any) -> None:
    assert line.best["metric"] == "eval/r2"
    assert line.best["value"] > 0.99
    assert (line.run.path / "media").is_dir()


@pytest.mark.slow
def test_the_exported_network_takes_rows_as_they_are(line: Any) -> None:
    _, data, module, _ = restore(line.run, "best")
    what = module.exportable(data)
    assert what is not None
    assert what.about == {"columns": ["a", "b=u", "b=v"], "values": ["y"]}
    assert isinstance(what.network, Predictor)
    with torch.no_grad():
        predicted = what.network(torch.tensor([[10_050.0, 1.0, 0.0], [9_950.0, 0.0, 1.0]]))[:, 0]
    assert predicted.tolist() == pytest.approx([3 * 10_050 - 100, 3 * 9_950 + 100], rel=2e-3)
    (batch,) = data.batches("test")
    with torch.no_grad():
        raw = batch.x * torch.tensor(data.spec.statistics.scale) + torch.tensor(data.spec.statistics.mean)
        assert torch.allclose(what.network(raw), module.judge(data, "test").predictions, rtol=1e-3)


@pytest.mark.slow
def test_a_large_offset_costs_no_digits(tmp_path: Path) -> None:
    """Seconds since 1970, a step apart: float32 knows only each 128th of them."""
    text = "".join(f"{i},{1_700_000_000 + i}\n" for i in range(300))
    (tmp_path / "t.csv").write_text("a,y\n" + text)
    words = [f"data.name={tmp_path / 't.csv'}", "trainer.budget=20000", "module.optimizer.weight_decay=0"]
    words += ["tracking.mode=disabled", "trainer.num_threads=1"]
    run = train(resolve("regression/diabetes", words), run_dir=tmp_path / "run")
    assert run.metrics["eval/r2"] > 0.995
    _, data, module, _ = restore(run.run)
    (batch,) = data.batches("test")
    assert batch.y.flatten().diff().unique().numel() > 30
    with torch.no_grad():
        predictions = module.judge(data, "test").predictions
    assert (predictions - batch.y).abs().mean() < 8
