"""Runs go on exactly where they ended: asked to stop, killed, completed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.runs.directory import Run
from lab.training.train import resume, train
from tests.lab.training.small_run import (
    assert_same_run,
    experiment,
    rows,
    start,
    train_words,
    wait_for_checkpoint,
    weights,
)

pytestmark = pytest.mark.slow


def test_asked_to_stop_and_resumed_twice(whole: Run, tmp_path: Path) -> None:
    chunks = iter([3, 20, 10**9])

    def stop_later(loop: Any) -> None:
        inner, left = loop.on_train_batch_end, [next(chunks)]

        def counted(*arguments: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                loop.ask_to_stop()
            inner(*arguments)

        loop.on_train_batch_end = counted

    result = train(experiment(), run_dir=tmp_path / "run", on_loop=stop_later)
    assert result.status == "interrupted"
    assert result.run.result()["status"] == "interrupted"
    assert train(experiment(), resume=result.run, on_loop=stop_later).status == "interrupted"
    assert train(experiment(), resume=result.run, on_loop=stop_later).status == "completed"
    # an extra row is logged where a run was stopped; all else is the same
    stops = {row["samples"] for row in rows(result.run)} - {row["samples"] for row in rows(whole)}
    assert stops == set()
    assert_same_run(whole, result.run)


def test_killed_and_resumed(whole: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, *train_words(run))
    wait_for_checkpoint(process, run, 7000)
    process.kill()
    process.wait()
    assert Run.open(run).result()["status"] == "running"
    assert not Run.open(run).is_alive()
    done = train(Run.open(run).experiment(), resume=Run.open(run))
    assert done.status == "completed"
    assert_same_run(whole, done.run)


def test_killed_while_it_starts_and_resumed_from_nothing(whole: Run, tmp_path: Path) -> None:
    run = Run.create(experiment(), tmp_path / "run")
    done = train(experiment(), resume=run)
    assert_same_run(whole, done.run)


def test_a_completed_run_is_not_trained_further(whole: Run, lab: Any) -> None:
    before = rows(whole), weights(whole)
    done = lab("resume", whole.path, "--quiet")
    assert done.code == 0, done.err
    assert rows(whole) == before[0]
    assert all(torch.equal(value, weights(whole)[key]) for key, value in before[1].items())
    assert whole.result()["status"] == "completed"


def test_a_larger_budget_goes_on_where_the_run_ended(lab: Any, tmp_path: Path) -> None:
    small = train(experiment("trainer.budget=2000"), run_dir=tmp_path / "run")
    done = lab("resume", small.run.path, "trainer.budget=4000", "--quiet")
    assert done.code == 0, done.err
    assert small.run.result()["samples"] >= 4000
    assert small.run.experiment().trainer.budget == 4000
    logged = [row["samples"] for row in rows(small.run) if "losses/cross_entropy" in row]
    assert logged == sorted(set(logged))


def test_overrides_that_do_not_fit_the_checkpoint_leave_the_run_as_it_was(lab: Any, tmp_path: Path) -> None:
    run = train(experiment("trainer.budget=1500"), run_dir=tmp_path / "run").run
    kept = (run.path / "experiment.yaml").read_text(), run.result()
    for override in (
        "module.backbone.hidden=7",
        "module.kind=nonsense",
        "trainer.device=tpu",
        "module.optimizer.name=sgd",
    ):
        done = lab("resume", run.path, override, "trainer.budget=3000", "--quiet")
        assert done.code == 2, (override, done)
        assert done.err.count("\n") == 1
        assert (run.path / "experiment.yaml").read_text() == kept[0], override
        assert run.result()["status"] == "completed"
    assert lab("resume", run.path, "trainer.budget=3000", "--quiet").code == 0


def test_result_json_says_what_the_run_was(whole: Run) -> None:
    result = json.loads((whole.path / "result.json").read_text())
    assert result["recipe"] == "classifier/digits-cnn"
    assert result["status"] == "completed"
    assert result["seed"] == 0
    assert result["samples"] >= 20000
    assert result["seconds"] > 0
    assert result["best"]["metric"] == "eval/accuracy"
    assert result["metrics"]["eval/accuracy"] > 0.9
    assert {"python", "torch", "lightning", "lab"} <= set(result["versions"])
    assert "git" in result
    for name in ("experiment.yaml", "metrics.jsonl", "log.txt", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert (whole.path / name).is_file(), name


def test_a_run_killed_before_its_first_checkpoint_begins_anew_with_what_is_asked_of_it(tmp_path: Path) -> None:
    run = train(experiment("trainer.budget=320"), run_dir=tmp_path / "run").run
    for checkpoint in run.checkpoints.iterdir():
        checkpoint.unlink()
    content = json.loads((run.path / "result.json").read_text())
    (run.path / "result.json").write_text(json.dumps({**content, "status": "running", "saved": False}))
    again = resume(run, "module.backbone.name=mlp").run
    assert again.experiment().module.backbone.name == "mlp"
    assert "the run goes on with module.backbone.name='mlp' (before: 'lenet')" in (run.path / "log.txt").read_text()
