"""Diagnostics while training: faults are named, numbers are right, and no run is changed by them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lab.config.overrides import resolve
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.health.filters import first_filters, scaled_alone
from lab.training.health.histograms import NUM_BINS, histogram, named
from lab.training.health.outputs import Outputs
from lab.training.health.updates import relative_changes, typical_ratio
from lab.training.train import Result, train
from tests.lab.ranks.several import train_on_ranks

FEW = ("trainer.device=cpu", "trainer.num_threads=1", "tracking.mode=disabled", "trainer.film=false")
DIGITS = ("classifier/digits-cnn", "trainer.budget=7680", "trainer.eval_period=2560", "data.batches_per_step=4")
MLP = ("module.backbone={name: mlp, hidden: [32,32]}",)


def trained(tmp_path: Path, recipe: str, *words: str, name: str = "run", **options: Any) -> Result:
    return train(resolve(recipe, [*FEW, *words]), run_dir=tmp_path / name, **options)


def test_ratios_are_the_norm_of_the_change_over_that_of_the_weights() -> None:
    before = [torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), torch.ones(1, 1), torch.ones(1, 1)]
    after = [torch.tensor([[3.0, 4.5]]), torch.ones(1, 2), torch.ones(1, 1), torch.full((1, 1), math.nan)]
    ratios = relative_changes(before, after)
    assert ratios[0] == pytest.approx(0.1)
    assert ratios.isnan().tolist() == [False, True, False, False]  # weights of 0 have no ratio
    assert ratios[2:].tolist() == [0.0, math.inf]
    assert typical_ratio(torch.tensor([0.1, math.nan, 0.0, 0.3, 0.2])) == pytest.approx(0.2)
    assert typical_ratio(torch.tensor([0.0, math.nan])).isnan()


def test_histograms_count_in_equal_bins() -> None:
    values = torch.linspace(-1, 1, 2001)
    low, high, counts = histogram(torch.cat([values, torch.tensor([math.nan, math.inf])]))  # type: ignore[misc]
    assert (low, high) == (-1, 1)
    expected = torch.bucketize(values, torch.linspace(-1, 1, NUM_BINS + 1)[1:-1].contiguous(), right=True)
    assert sum(counts) == 2001
    assert all(abs(a - b) <= 1 for a, b in zip(counts, expected.bincount(minlength=NUM_BINS).tolist(), strict=True))
    assert sum(histogram(torch.zeros(5)).counts) == 5  # type: ignore[union-attr]
    assert histogram(torch.full((3,), math.nan)) is None
    assert sum(histogram(torch.randn(1000, 100)).counts) <= 4096  # type: ignore[union-attr]
    assert list(named("weights", {"a": torch.ones(2), "b": torch.zeros(0)})) == ["weights/a"]


def test_first_filters_are_those_that_read_the_image() -> None:
    conv, linear = nn.Conv2d(3, 5, 3), nn.Linear(3 * 8 * 8, 7)
    decoder = nn.Linear(16, 4)
    assert first_filters([decoder, nn.Sequential(nn.Conv2d(4, 2, 3), conv)], (3, 8, 8)).shape == (5, 3, 3, 3)  # type: ignore[union-attr]
    filters = first_filters([decoder, linear], (3, 8, 8))
    assert torch.equal(filters[1, 2, 4], linear.weight.detach()[1].view(3, 8, 8)[2, 4])  # type: ignore[index]
    assert first_filters([conv], (10,)) is None
    assert first_filters([decoder], (3, 8, 8)) is None


def test_each_filter_is_scaled_alone() -> None:
    filters = torch.tensor([[[[1.0, -2.0]]], [[[0.01, 0.0]]], [[[0.0, 0.0]]]])
    assert scaled_alone(filters).flatten(1).tolist() == [[0.75, 0.0], [1.0, 0.5], [0.5, 0.5]]


def test_only_hidden_units_count_as_saturated() -> None:
    net, outputs = nn.Sequential(nn.Linear(1, 2), nn.Sigmoid(), nn.Linear(2, 1), nn.Sigmoid()), Outputs()
    for layer in (net[0], net[2]):
        nn.init.constant_(layer.weight, 100.0)  # type: ignore[arg-type]
    with outputs.watching(net):
        net(torch.ones(3, 1))
    assert outputs.saturated == {"1": 1.0}
    assert "100% of the outputs of 1 are saturated" in str(outputs.warning())


@pytest.mark.slow
def test_a_run_tells_how_it_does(tmp_path: Path) -> None:
    run = trained(tmp_path, *DIGITS).run
    rows = run.metrics()
    losses = [row for row in rows if "diagnostics/update_to_weight" in row]
    assert losses
    assert all(1e-5 < row["diagnostics/update_to_weight"] < 1e-1 for row in losses)
    assert all(0 < row["diagnostics/gradient_norm"] < 100 for row in losses)
    evaluations = [row for row in rows if "eval/accuracy" in row]
    *_, last = evaluations
    assert last["diagnostics/gap"] == pytest.approx(last["diagnostics/train_accuracy"] - last["eval/accuracy"])
    assert sum("diagnostics/gap" in row for row in evaluations) == 1  # 64 samples for 6,400 that are trained on
    kinds = {name.partition("/")[0] for row in evaluations for name in row["histograms"]}
    assert kinds == {"weights", "activations", "gradients"}
    assert all((run.path / row["pictures"]["first-layer"]).is_file() for row in evaluations)
    assert (run.path / "log.txt").read_text() == ""


RUNS = [
    DIGITS,
    ("vae/digits", "trainer.budget=5120", "trainer.eval_period=2560"),
    ("gan/digits", "trainer.budget=2560", "trainer.eval_period=1280", "module.discriminator_optimizer.lr=0.001"),
    ("dqn/cartpole", "trainer.budget=3000", "trainer.eval_period=1500"),
    ("ppo/cartpole", "trainer.budget=8000", "trainer.eval_period=4000"),
]


@pytest.mark.slow
@pytest.mark.parametrize("words", RUNS, ids=[words[0] for words in RUNS])
@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_a_run_is_the_same_to_the_bit_without_diagnostics(
    tmp_path: Path, words: tuple[str, ...], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.training.health.health._UPDATES", 3)
    monkeypatch.setattr("lab.training.health.health._CLOSELY", 5)
    results = {
        on: trained(tmp_path, *words, f"trainer.diagnostics={on}", f"trainer.engine={engine}", name=on)
        for on in ("true", "false")
    }
    weights = [checkpoint.load(each.run.checkpoint("last"))["state_dict"] for each in results.values()]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    measured = [[clean(row) for row in each.run.metrics()] for each in results.values()]
    assert measured[0] == measured[1]
    first = results["true"].run.metrics()
    assert any(key.startswith("diagnostics/update_to_weight") for row in first for key in row)
    assert any(name.startswith("activations/") for row in first for name in row.get("histograms", {}))
    assert not any(key.startswith("diagnostics/") for row in results["false"].run.metrics() for key in row)


def clean(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what diagnostics add, and without the clock."""
    row = {k: v for k, v in row.items() if not k.startswith("diagnostics/") and "second" not in k}
    row.pop("histograms", None)
    row["pictures"] = sorted(set(row.get("pictures", {})) - {"first-layer"})
    return row


@pytest.mark.slow
def test_a_resumed_run_looks_at_the_same_updates(tmp_path: Path) -> None:
    words = (*DIGITS, "trainer.log_period=1")
    whole = trained(tmp_path, *words, name="whole").run

    def pause(loop: Any) -> None:
        loop.pause_at = 2000

    trained(tmp_path, *words, name="halved", on_loop=pause)
    halved = train(resolve(words[0], [*FEW, *words[1:]]), resume=Run.open(tmp_path / "halved")).run
    told = [
        [{k: v for k, v in row.items() if k.startswith(("diagnostics/", "histograms"))} for row in run.metrics()]
        for run in (whole, halved)
    ]
    assert told[0] == told[1]


FAULTS = [
    (("module.optimizer.lr=2",), "too high: an update changes weights by"),
    (("module.optimizer.lr=1e-9",), "too low: an update changes weights by"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "sentence"), FAULTS)
def test_rates_far_from_the_usual_are_named_once(tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    run = trained(tmp_path, *DIGITS, "trainer.budget=20480", *words).run
    assert (run.path / "log.txt").read_text().count(sentence) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "sentence"),
    [("sigmoid", "of the outputs of features.backbone.net.2 are saturated"), ("relu", "are 0 for every input")],
)
def test_layers_that_saturate_or_die_are_named(tmp_path: Path, activation: str, sentence: str) -> None:
    backbone = f"module.backbone={{name: mlp, hidden: [32,32], activation: {activation}}}"

    def spoil(loop: Any) -> None:
        inner = loop.on_train_start

        def on_train_start(trainer: Any, module: Any) -> None:
            inner(trainer, module)
            with torch.no_grad():
                first = next(layer for layer in module.net.modules() if isinstance(layer, nn.Linear))
                first.bias.fill_(-1e4)

        loop.on_train_start = on_train_start

    run = trained(tmp_path, *DIGITS, backbone, on_loop=spoil).run
    assert (run.path / "log.txt").read_text().count(sentence) == 1


@pytest.mark.slow
def test_several_ranks_are_looked_at_by_the_first_without_a_change(tmp_path: Path) -> None:
    words = [*FEW, *DIGITS[1:], "trainer.budget=5120"]
    jobs = [(resolve(DIGITS[0], [*words, f"trainer.diagnostics={on}"]), tmp_path / on, 0) for on in ("true", "false")]
    runs = train_on_ranks(2, jobs)
    weights = [checkpoint.load(run.last)["state_dict"] for run in runs]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    rows = [run.metrics() for run in runs]
    assert [clean(row) for row in rows[0]] == [clean(row) for row in rows[1]]
    assert any("diagnostics/update_to_weight" in row for row in rows[0])
    assert any(name.startswith("activations/") for row in rows[0] for name in row.get("histograms", {}))
