"""Runs that follow their evaluations: early stopping and plateau schedules, exact when they go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.config.overrides import resolve
from lab.errors import UserError
from lab.experiment import Experiment
from lab.runs.directory import Run
from lab.supervised.supervised import Supervised
from lab.training.train import resume, train
from tests.lab.ranks.several import stop_after, train_on_ranks
from tests.lab.training.small_run import assert_same_run, rows

pytestmark = pytest.mark.slow
PERIOD, CHUNKS = 1280, 2
"""samples and chunks between evaluations"""
ACCURACIES = [0.5, 0.6, 0.6, 0.5, 0.7, 0.7, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6]


def experiment(*overrides: str) -> Experiment:
    words = [f"trainer.budget={len(ACCURACIES) * PERIOD}", f"trainer.eval_period={PERIOD}", "trainer.num_threads=1"]
    return resolve("classifier/digits-cnn", [*words, "trainer.device=cpu", "tracking.mode=disabled", *overrides])


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations give the accuracies above one after the other, whoever asks."""

    def evaluate(self: Any, *given: Any, **options: Any) -> dict[str, float]:
        return {"eval/accuracy": ACCURACIES[self.counters["samples"] // PERIOD - 1]}

    monkeypatch.setattr(Supervised, "evaluate", evaluate)
    monkeypatch.setattr(Supervised, "pictures", lambda *_: {})


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("stop", [1, 7, 14])
def test_a_run_ends_when_its_patience_is_over_also_after_a_resume(stop: int, tmp_path: Path) -> None:
    patient = experiment("trainer.patience=3")
    whole = train(patient, run_dir=tmp_path / "whole")
    assert (whole.status, whole.run.result()["samples"]) == ("completed", 8 * PERIOD)
    reason = "eval/accuracy did not improve in 3 evaluations (trainer.patience)"
    assert whole.run.result()["reason"] == reason
    assert reason in (whole.run.path / "log.txt").read_text()
    assert whole.best is not None
    assert whole.best["samples"] == 7 * PERIOD  # the last of equal ones
    half = train(patient, run_dir=tmp_path / "half", on_loop=stop_after(stop))
    assert (half.status, half.run.result()["reason"]) == ("interrupted", None)
    assert_same_run(whole.run, train(patient, resume=half.run).run)


@pytest.mark.usefixtures("scripted")
def test_a_run_whose_patience_is_over_goes_on_with_more_of_it_only(lab: Any, tmp_path: Path) -> None:
    run = train(experiment("trainer.patience=3"), run_dir=tmp_path / "run").run
    before = rows(run)
    done = lab("resume", run.path, "--quiet")
    assert done.code == 0
    assert "eval/accuracy did not improve in 3 evaluations" in done.out
    assert rows(run) == before
    with pytest.raises(UserError, match=r"is complete: .* trainer\.patience above 3 goes on"):
        resume(run, f"trainer.budget={20 * PERIOD}")
    assert resume(run, "trainer.patience=5").run.result()["samples"] == 10 * PERIOD
    assert resume(run, "trainer.patience=null").run.result()["samples"] == len(ACCURACIES) * PERIOD
    assert run.result()["reason"] is None


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("stop", [3, 7, 14])
def test_a_plateau_lowers_the_rate_also_after_a_resume(stop: int, tmp_path: Path) -> None:
    plateau = experiment(
        "module.optimizer.lr=1e-3",
        "module.optimizer.schedule={name: plateau, patience: 2, gamma: 0.5}",
        "trainer.log_period=1",
    )
    whole = train(plateau, run_dir=tmp_path / "whole").run
    rates = [row["charts/learning_rate"] for row in rows(whole) if "charts/learning_rate" in row]
    num_falls = [0] * 4 + [1] * 3 + [2] * 2 + [3] * 2 + [4]  # after evaluations 4, 7, 9 and 11
    assert rates == pytest.approx([1e-3 * 0.5**num for num in num_falls for _ in range(CHUNKS)])
    half = train(plateau, run_dir=tmp_path / "half", on_loop=stop_after(stop)).run
    assert_same_run(whole, train(plateau, resume=half).run)


@pytest.mark.parametrize(
    "optimizer",
    [
        "{name: lbfgs, max_iter: 3}",
        "{name: newton, damping: 1}",
        "{name: muon, lr: 0.01}",
        "{name: sgd, lr: 0.05, momentum: 0.5, momentum_schedule: {name: linear, final: 1.98}}",
        "{lr: 0.01, l1: 0.001, max_norm: 1, rates: {'*.bias': 0.5}}",
    ],
)
def test_each_way_to_update_goes_on_exactly(optimizer: str, tmp_path: Path) -> None:
    small = experiment(
        "module.backbone={name: mlp, hidden: [8]}", f"module.optimizer={optimizer}", f"trainer.budget={3 * PERIOD}"
    )
    whole = train(small, run_dir=tmp_path / "whole").run
    losses = [row["losses/cross_entropy"] for row in rows(whole) if "losses/cross_entropy" in row]
    assert losses[-1] < losses[0]
    half = train(small, run_dir=tmp_path / "half", on_loop=stop_after(2)).run
    assert_same_run(whole, train(small, resume=half).run)


def test_all_ranks_follow_the_evaluations_of_the_first(tmp_path: Path) -> None:
    still = "module.optimizer={lr: 1.0e-12, schedule: {name: plateau, patience: 1, gamma: 0.5}}"
    overrides = [still, "trainer.patience=3", "trainer.log_period=1", "trainer.checkpoint_seconds=1.0e-3"]
    (run,) = train_on_ranks(2, [(experiment(*overrides), tmp_path / "run", 0)])
    result = run.result()
    assert (result["status"], result["workers"], result["samples"]) == ("completed", 2, 4 * PERIOD)
    rates = [row["charts/learning_rate"] for row in rows(Run(run.path)) if "charts/learning_rate" in row]
    assert rates == pytest.approx([1e-12 * 0.5**num for num in (0, 0, 1, 2) for _ in range(CHUNKS)], abs=0)
