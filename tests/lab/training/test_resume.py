"""Runs end cleanly and go on exactly: asked to stop, terminated, interrupted, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.config.overrides import resolve
from lab.experiment import Experiment
from lab.runs.directory import Run
from lab.training.train import train

pytestmark = pytest.mark.slow
OVERRIDES = (
    "trainer.budget=20000",
    "trainer.eval_period=4000",
    "trainer.log_period=640",
    "trainer.num_threads=1",
    "trainer.device=cpu",
    "tracking.mode=disabled",
)
SLOW_DOWN = """
import sys, time
import lab.supervised.classifier as c
inner = c.Classifier.training_step
def slow(self, *arguments):
    if self.counters["samples"] >= 6000:
        time.sleep(0.5)
    return inner(self, *arguments)
c.Classifier.training_step = slow
from lab.cli import main
sys.exit(main(sys.argv[1:]))
"""


def experiment(*overrides: str) -> Experiment:
    return resolve("classifier/digits-cnn", [*OVERRIDES, *overrides])


def weights(run: Run, which: str = "last") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run.checkpoint(which), weights_only=True)["state_dict"]
    return state


def rows(run: Run) -> list[dict[str, Any]]:
    """Metrics but for what the clock says."""
    return [{k: v for k, v in row.items() if k != "seconds" and "per_second" not in k} for row in run.metrics()]


def assert_same_run(one: Run, other: Run) -> None:
    for which in ("last", "best"):
        for key, value in weights(one, which).items():
            assert torch.equal(value, weights(other, which)[key]), (which, key)
    assert rows(one) == rows(other)
    logged = [row["samples"] for row in rows(other) if "losses/cross_entropy" in row]
    assert logged == sorted(set(logged)), "a step stands there twice"
    first, second = one.result(), other.result()
    for key in ("status", "samples", "updates", "best"):
        assert first[key] == second[key]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nobody interrupted."""
    result = train(experiment(), run_dir=tmp_path_factory.mktemp("whole") / "run")
    assert result.status == "completed"
    return result.run


def start(run: Path, *words: str) -> subprocess.Popen[str]:
    """A lab command in a process of its own that is slow from 6,000 samples on."""
    return subprocess.Popen(
        [sys.executable, "-c", SLOW_DOWN, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path, samples: int) -> None:
    """Wait until `last` exists and training is past `samples`."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        written = Run(run).metrics() if (run / "checkpoints" / "last.ckpt").is_file() else []
        if written and written[-1]["samples"] >= samples:
            return
        time.sleep(0.05)
    raise AssertionError("no checkpoint within four minutes")


def train_words(run: Path) -> list[str]:
    return ["train", "classifier/digits-cnn", *OVERRIDES, "trainer.checkpoint_seconds=0.2", "--out", str(run)]


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_run_saved_and_resumable(whole: Run, lab: Any, tmp_path: Path, number: signal.Signals) -> None:
    """While it runs, nobody else may train the run; after the signal anybody may."""
    run = tmp_path / "run"
    process = start(run, *train_words(run), "--quiet")
    wait_for_checkpoint(process, run, 7000)
    second = lab("resume", run)
    assert second.code == 2
    assert "is being trained by another process" in second.err
    process.send_signal(number)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert f"lab resume {run}" in out.replace("\n", "")
    assert Run.open(run).result()["status"] == "interrupted"
    done = train(Run.open(run).experiment(), resume=Run.open(run))
    assert done.status == "completed"
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
