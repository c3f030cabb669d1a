"""Ensembles by hand: the mean of the members' predictions, scored as one model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab.config.overrides import resolve
from lab.errors import UserError
from lab.supervised.ensemble import measure_ensemble
from lab.training.restore import evaluate, restore
from lab.training.train import train

pytestmark = pytest.mark.slow
QUICK = ["trainer.budget=6400", "trainer.num_threads=1", "tracking.mode=disabled", "trainer.device=cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("members")
    return [
        train(resolve("classifier/digits-cnn", [*QUICK, f"seed={seed}"]), run_dir=folder / str(seed)).run.path
        for seed in range(3)
    ]


def test_the_mean_of_probabilities(runs: list[Path], lab: Any) -> None:
    told = json.loads(lab("evaluate", *runs, "--ensemble", "--json").out)
    probabilities = []
    for run in runs:
        _, data, module, _ = restore(run)
        batch = next(data.batches("test"))
        with torch.no_grad():
            probabilities.append(module.net(batch.x).double().softmax(1))
        assert told["members"][str(run)] == pytest.approx(evaluate(run))
    p = torch.stack(probabilities).mean(0)
    right = p.gather(1, batch.y[:, None])[:, 0]
    assert told["metrics"]["eval/accuracy"] == pytest.approx(float((p.argmax(1) == batch.y).double().mean()))
    assert told["metrics"]["eval/cross_entropy"] == pytest.approx(float(-right.log().mean()), rel=1e-4)
    members = [member["eval/cross_entropy"] for member in told["members"].values()]
    assert told["metrics"]["eval/cross_entropy"] < np.mean(members)
    shown = lab("evaluate", *runs, "--ensemble")
    assert shown.code == 0
    assert f"{told['metrics']['eval/accuracy']:.5g}" in shown.out


def test_whatever_gives_probabilities_goes_together(runs: list[Path], lab: Any, tmp_path: Path) -> None:
    kinds = {
        kind: train(
            resolve("baseline/digits-knn", ["tracking.mode=disabled", f"module.model={{kind: {kind}}}"]),
            run_dir=tmp_path / kind,
        )
        for kind in ("softmax", "linear_svm")
    }
    assert lab("evaluate", runs[0], kinds["softmax"].run.path, "--ensemble").code == 0
    done = lab("evaluate", runs[0], kinds["linear_svm"].run.path, "--ensemble")
    assert (done.code, "predicts the score of 0, 1, 2" in done.err) == (2, True)


def test_what_makes_no_ensemble_is_refused(runs: list[Path], lab: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs at least two runs"):
        measure_ensemble(runs[:1])
    agent = train(resolve("dqn/cartpole", [*QUICK, "trainer.budget=300", "trainer.film=false"]), run_dir=tmp_path / "a")
    rows = ["regression/diabetes", [*QUICK, "trainer.budget=640"]]
    table = train(resolve(*rows), run_dir=tmp_path / "b")  # type: ignore[arg-type]
    done = lab("evaluate", runs[0], agent.run.path, "--ensemble")
    assert (done.code, "is no supervised model" in done.err) == (2, True)
    done = lab("evaluate", runs[0], table.run.path, "--ensemble")
    assert (done.code, "the probability of 0, 1, 2, 3, 4 and 5 more" in done.err) == (2, True)
    done = lab("evaluate", runs[0], runs[0], "--ensemble")
    assert (done.code, "is named twice" in done.err) == (2, True)
    done = lab("evaluate", runs[0], runs[1])
    assert (done.code, "needs --ensemble" in done.err) == (2, True)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (60, 8, 8), dtype=np.uint8), np.arange(60) % 10
    np.savez(tmp_path / "other.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    words = [*QUICK, "trainer.budget=640", f"data.name={tmp_path / 'other.npz'}"]
    other = train(resolve("classifier/digits-cnn", words), run_dir=tmp_path / "c")
    done = lab("evaluate", runs[0], other.run.path, "--ensemble")
    assert (done.code, "is on other data than" in done.err) == (2, True)
