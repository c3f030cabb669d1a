"""Sweeps from Python, in a cluster of the caller's own, and Ray Tune around a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lab

QUICK = ["trainer.budget=1280", "trainer.eval_period=640", "trainer.num_threads=1", "tracking.mode=disabled"]

pytestmark = pytest.mark.slow


def test_a_sweep_gives_its_runs_on_the_cluster_that_is_connected(cluster: Any, tmp_path: Path) -> None:
    runs = lab.sweep("classifier/digits-cnn", *QUICK, "module.optimizer.lr=1e-3,1e-2", seeds=1, out=tmp_path / "sweep")
    assert [run.result()["status"] for run in runs] == ["completed", "completed"]
    assert {run.experiment().module.optimizer.lr for run in runs} == {1e-3, 1e-2}
    assert len(lab.compare(*runs).sections[0].rows) == 2


def test_ray_tune_stops_trials_by_what_a_run_reports(cluster: Any, tmp_path: Path) -> None:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    def trial(config: dict[str, float]) -> None:
        experiment = lab.recipe("classifier/digits-cnn", *QUICK, f"module.optimizer.lr={config['lr']}")
        lab.train(experiment, run_dir=tmp_path / f"lr-{config['lr']}", on_evaluation=tune.report)

    scheduler = ASHAScheduler(time_attr="samples", max_t=1280, grace_period=640, reduction_factor=2)
    results = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"lr": tune.grid_search([1e-6, 2e-3])},
        tune_config=tune.TuneConfig(
            metric="eval/accuracy", mode="max", scheduler=scheduler, max_concurrent_trials=1, reuse_actors=False
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), verbose=0),
    ).fit()
    assert not results.errors
    assert results.get_best_result().config["lr"] == 2e-3
    assert sorted(result.metrics["samples"] for result in results)[-1] == 1280
