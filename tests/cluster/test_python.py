"""Sweeps from Python, in a cluster of the caller's own, and Ray Tune around a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lab
from lab.backbones import BACKBONES

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


def test_what_only_the_script_knows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @lab.register("of_this_script", example_shape=(4,))
    def of_this_script(input_shape: tuple[int, ...]) -> Any:
        """Registered in a notebook."""

    registration = BACKBONES._registrations["of_this_script"]
    monkeypatch.setattr(registration.origin, "__module__", "__main__")
    try:
        with pytest.raises(lab.UserError, match="'of_this_script' is registered by this script itself"):
            lab.sweep("dqn/cartpole", "module.backbone.name=of_this_script", *QUICK, out=tmp_path / "sweep")
    finally:
        del BACKBONES._registrations["of_this_script"]
    assert not (tmp_path / "sweep").exists()


def test_a_run_that_fails_before_it_begins_is_no_missing_run(cluster: Any, tmp_path: Path) -> None:
    words = ["data.name=nowhere.npz", "module.optimizer.lr=1e-3,1e-2"]
    with pytest.raises(lab.Failure, match=r"2 of 2 runs of .* failed before they began, 000-.* first: .*nowhere"):
        lab.sweep("classifier/digits-cnn", *QUICK, *words, out=tmp_path / "sweep")


@pytest.mark.cluster
def test_a_script_that_leaves_its_collectors_open_ends_well() -> None:
    script = """
import lightning.pytorch as pl
import lab
experiment = lab.recipe("ppo/cartpole", "data.collector.kind=remote", "data.collector.num=1", "data.rounds=1")
data = experiment.data.build(seed=0)
module = experiment.module.build(data.spec)
options = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
pl.Trainer(max_steps=1, accelerator="cpu", **options).fit(module, datamodule=data)
print("END", flush=True)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "END\n"), done.stderr
    assert "is gone" not in done.stderr
