"""A sweep under fire: its workers and its driver are killed at random for ten minutes, and nothing may be lost.

    python benchmarks/chaos.py [--quick]

Every run of the disturbed sweep must end with the same metrics, row by row, as in an undisturbed one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from form import Benchmark

RECIPES = ("classifier/digits-cnn", "vae/digits", "dqn/cartpole")
LAB = [sys.executable, "-m", "lab.cli"]
_SILENT: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
_CLOCKS = ("seconds", "charts/steps_per_second")


def metrics(sweep: Path) -> dict[str, list[dict[str, Any]]]:
    """Each run's rows without what depends on the clock."""
    found = {}
    for path in sorted(sweep.glob("runs/*/metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.parent.name] = [{k: v for k, v in row.items() if k not in _CLOCKS} for row in rows]
    return found


def workers(sweep: Path) -> list[int]:
    """The processes that train a run of the sweep: those that hold a lock."""
    inodes = {path.stat().st_ino for path in sweep.glob("runs/*/.lock")}
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return [int(f[4]) for f in lines if f[1] == "FLOCK" and int(f[5].rpartition(":")[2]) in inodes]


def disturbed(words: list[str], out: Path, seconds: float, generator: random.Random) -> dict[str, int]:
    """Run the sweep to its end, killing for the first `seconds`; returns how often what was killed."""
    kills = {"worker": 0, "driver": 0}
    began = time.monotonic()
    driver = subprocess.Popen(
        [*LAB, "sweep", *words, "--retries", "1000", "--out", str(out)], stderr=subprocess.DEVNULL
    )
    while True:
        pause = generator.uniform(8, 20)
        try:
            code = driver.wait(timeout=pause)
            if code == 0:
                return kills
        except subprocess.TimeoutExpired:
            if time.monotonic() - began > seconds:
                continue
            victims = workers(out)
            if generator.random() < 0.2:
                driver.kill()
                driver.wait()
                kills["driver"] += 1
            elif victims:
                os.kill(generator.choice(victims), signal.SIGKILL)
                kills["worker"] += 1
                continue
            else:
                continue
        if not (out / "state.json").is_file():
            raise RuntimeError("the sweep ended before it began")
        driver = subprocess.Popen([*LAB, "resume", str(out)], **_SILENT)


def main() -> None:
    bench = Benchmark("chaos", __doc__)
    seconds, seeds = (60.0, 1) if bench.quick else (600.0, 4)
    words = [*RECIPES, "--seeds", str(seeds), "tracking.mode=disabled", "trainer.checkpoint_seconds=2"]
    with tempfile.TemporaryDirectory() as name:
        calm, wild = Path(name) / "calm", Path(name) / "wild"
        subprocess.run([*LAB, "sweep", *words, "--quiet", "--out", str(calm)], check=True, capture_output=True)
        kills = disturbed(words, wild, seconds, random.Random(0))
        wanted, found = metrics(calm), metrics(wild)
    same = sum(found.get(run) == rows for run, rows in wanted.items())
    figures = {"runs_as_undisturbed_ratio": same / len(wanted), "kills": float(sum(kills.values()))}
    bench.finish(figures, {"runs_as_undisturbed_ratio": 1.0}, {**kills, "runs": len(wanted)})


if __name__ == "__main__":
    main()
