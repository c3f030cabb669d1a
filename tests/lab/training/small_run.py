"""One small run, whole or in a process of its own that is slow, and how two runs are compared."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from lab.config.overrides import resolve
from lab.experiment import Experiment
from lab.runs.directory import Run

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
import lab.supervised.supervised as s
inner = s.Supervised.training_step
def slow(self, *arguments):
    if self.counters["samples"] >= 6000:
        time.sleep(0.5)
    return inner(self, *arguments)
s.Supervised.training_step = slow
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
