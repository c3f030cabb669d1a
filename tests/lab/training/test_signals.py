"""Runs that are asked to end while they work: saved, or as they were before the chunk that was given up."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.train import train
from tests.lab.training.small_run import (
    OVERRIDES,
    assert_same_run,
    start,
    train_words,
    wait_for_checkpoint,
)

pytestmark = pytest.mark.slow


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


LONG_CHUNK = """
import sys, time
import lab.training.loop as loop
loop._PATIENCE_SECONDS = 0.3
import lab.supervised.supervised as s
inner = s.Supervised.training_step
def slow(self, *arguments):
    outputs = inner(self, *arguments)
    if self.counters["samples"] >= 6000:
        print("slow", flush=True)
        for _ in range({slices}):
            time.sleep(0.02)
    return outputs
s.Supervised.training_step = slow
from lab.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_long_chunk_is_given_up_and_repeated(whole: Run, lab: Any, tmp_path: Path) -> None:
    words = ["train", "classifier/digits-cnn", *OVERRIDES, "trainer.checkpoint_seconds=0.001"]
    command = [sys.executable, "-c", LONG_CHUNK.format(slices=10_000), *words, f"--out={tmp_path / 'run'}", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "slow\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    run = Run.open(tmp_path / "run")
    saved = checkpoint.load(run.last)["counters"]
    result = run.result()
    assert (result["status"], result["saved"]) == ("interrupted", True)
    assert {name: result[name] for name in saved} == saved
    assert saved["samples"] < 6000
    assert lab("resume", run.path, "--quiet").code == 0
    assert_same_run(whole, run)


SWALLOWS = """
import sys, time
import lab.training.loop as loop
loop._PATIENCE_SECONDS, loop._AGAIN_SECONDS = 0.3, 0.2
import lab.supervised.supervised as s
inner = s.Supervised.training_step
def slow(self, *arguments):
    if self.counters["samples"] >= 6000:
        print("slow", flush=True)
        try:
            time.sleep(600)
        except BaseException as error:
            {then}
    return inner(self, *arguments)
s.Supervised.training_step = slow
from lab.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("then", ["pass", "raise ValueError('the line is dead')", "time.sleep(600)"])
def test_code_that_catches_everything_saves_no_chunk_that_was_given_up(
    then: str, whole: Run, lab: Any, tmp_path: Path
) -> None:
    words = ["train", "classifier/digits-cnn", *OVERRIDES, "trainer.checkpoint_seconds=0.001"]
    command = [sys.executable, "-c", SWALLOWS.format(then=then), *words, f"--out={tmp_path / 'run'}", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    run = Run.open(tmp_path / "run")
    assert run.result()["status"] == "interrupted"
    assert checkpoint.load(run.last)["counters"]["samples"] == 6400
    assert lab("resume", run.path, "--quiet").code == 0
    assert_same_run(whole, run)


OUTLIVES = """
import os, signal, sys, time
from pathlib import Path
import lab
import lab.training.loop as loop
loop._PATIENCE_SECONDS = 1.0
import lab.supervised.supervised as s
def dead(self, *arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    raise ValueError("the line is dead")
s.Supervised.training_step = dead
try:
    lab.train(lab.recipe("classifier/digits-cnn", "tracking.mode=disabled"), run_dir=Path(sys.argv[1]))
except ValueError:
    time.sleep(2)
    print("alive")
"""


def test_a_signal_that_a_failed_run_got_does_not_come_after_it(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", OUTLIVES, str(tmp_path / "run")], capture_output=True, text=True, timeout=100
    )
    assert (ended.returncode, ended.stdout) == (0, "alive\n"), ended.stderr


def test_a_long_chunk_is_waited_for_where_what_was_before_it_is_not_saved(tmp_path: Path) -> None:
    words = ["train", "classifier/digits-cnn", *OVERRIDES, "trainer.checkpoint_seconds=1000"]
    command = [sys.executable, "-c", LONG_CHUNK.format(slices=100), *words, f"--out={tmp_path / 'run'}", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
        process.stdout.readline()
        saved = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.ckpt")["counters"]["samples"]
        assert saved >= 6000  # after the first long one
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "last.ckpt")["counters"]["samples"] == saved
