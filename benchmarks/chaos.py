"""A sweep under fire: workers, collectors and the driver are killed or made to hang at random, and nothing may be lost.

    python benchmarks/chaos.py [--quick] [--seconds 600]

The same sweep runs once undisturbed, and then again and again as long as the fire lasts. Every run of a synchronous
recipe must end with the same metrics, row by row, as undisturbed; runs whose experience comes from asynchronous
collectors, which do not repeat, must end as good.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import psutil
from form import Benchmark

from lab.config import serialization
from lab.config.overrides import resolve

LAB = [sys.executable, "-m", "lab.cli"]
COLLECTORS = ["kind=remote", "num=2", "num_cpus=0", "mode=asynchronous", "max_staleness=2"]
COLLECTED = [*(f"data.collector.{word}" for word in COLLECTORS), "module.staleness=0"]
SYNCHRONOUS = {"classifier/digits-cnn": 200_000, "vae/digits": 150_000, "dqn/cartpole": 15_000}
ASYNCHRONOUS_BUDGET = 300_000
HANG_SECONDS = 15
_SILENT: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
_CLOCKS = ("seconds", "charts/steps_per_second")


def write_experiments(folder: Path, share: float) -> list[Path]:
    """The recipes as files, with a share of their budgets; the last one is the asynchronous one."""
    budgets = {**SYNCHRONOUS, "impala/cartpole": ASYNCHRONOUS_BUDGET}
    paths = []
    for recipe, budget in budgets.items():
        words = [f"trainer.budget={int(share * budget)}", *(COLLECTED if recipe not in SYNCHRONOUS else ())]
        paths.append(folder / f"{recipe.replace('/', '-')}.yaml")
        paths[-1].write_text(serialization.to_yaml(resolve(recipe, words)))
    return paths


def metrics(sweep: Path) -> dict[str, list[dict[str, Any]]]:
    """Each run's rows without what depends on the clock."""
    found = {}
    for path in sorted(sweep.glob("runs/*/metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.parent.name] = [{k: v for k, v in row.items() if k not in _CLOCKS} for row in rows]
    return found


def returns(sweep: Path) -> list[float]:
    """The best returns of the asynchronous runs."""
    results = [json.loads(path.read_text()) for path in sweep.glob("runs/*impala*/result.json")]
    return [result["best"]["value"] for result in results]


def workers(sweep: Path) -> list[int]:
    """The processes that train a run of the sweep: those that hold a lock."""
    inodes = {path.stat().st_ino for path in sweep.glob("runs/*/.lock")}
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return [int(f[4]) for f in lines if f[1] == "FLOCK" and int(f[5].rpartition(":")[2]) in inodes]


def collectors(driver: int) -> list[int]:
    """The collector processes of the driver's cluster."""
    try:
        below = psutil.Process(driver).children(recursive=True)
        return [process.pid for process in below if "ray::CollectorActor" in " ".join(process.cmdline())]
    except psutil.Error:
        return []


def disturbed(words: list[str], out: Path, until: float, generator: random.Random, kills: dict[str, int]) -> None:
    """Run the sweep to its end, killing as long as `until` has not come; counts how often what was killed."""
    driver = subprocess.Popen([*LAB, "sweep", *words, "--out", str(out)], **_SILENT)
    pause = generator.uniform(3, 12)
    while True:
        try:
            if driver.wait(timeout=pause) == 0:
                return
            raise RuntimeError(f"the driver ended with {driver.returncode}: {(out / 'state.json').read_text()}")
        except subprocess.TimeoutExpired:
            if time.monotonic() > until:
                continue
        training, collecting = workers(out), collectors(driver.pid)
        if not training:  # all are still starting
            pause = 1.0
            continue
        pause = generator.uniform(3, 12)
        what = generator.choices(list(kills), [5, 4 if collecting else 0, 1, 1])[0]
        kills[what] += 1
        if what == "driver":
            driver.kill()
            driver.wait()
            driver = subprocess.Popen([*LAB, "resume", str(out)], **_SILENT)
        else:
            victim = generator.choice(collecting if what == "collector" else training)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGSTOP if what == "hang" else signal.SIGKILL)


def add_seconds(parser: ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, metavar="S", help="kill for so long (default: 600; quick: 60)")


def main() -> None:
    bench = Benchmark("chaos", __doc__, add_seconds)
    seconds = bench.options.seconds or (60.0 if bench.quick else 600.0)
    kills = {"worker": 0, "collector": 0, "hang": 0, "driver": 0}
    generator, wild = random.Random(0), []
    with tempfile.TemporaryDirectory() as name:
        paths = write_experiments(Path(name), 0.5 if bench.quick else 1.0)
        options = ["--seeds", "1" if bench.quick else "2", "--retries", "1000", "--hang-seconds", str(HANG_SECONDS)]
        words = [*map(str, paths), "tracking.mode=disabled", "trainer.checkpoint_seconds=2", *options]
        calm = Path(name) / "calm"
        began = time.monotonic()
        subprocess.run([*LAB, "sweep", *words, "--quiet", "--out", str(calm)], check=True, capture_output=True)
        undisturbed = time.monotonic() - began
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            wild.append(Path(name) / f"wild-{len(wild)}")
            disturbed(words, wild[-1], until, generator, kills)
            print(f"sweep {len(wild)} has ended; killed so far: {kills}", file=sys.stderr, flush=True)
        total = time.monotonic() - began - undisturbed
        wanted, found = metrics(calm), [metrics(sweep) for sweep in wild]
        as_good = statistics.fmean(value for sweep in wild for value in returns(sweep)) / statistics.fmean(
            returns(calm)
        )
    repeating = {run: rows for run, rows in wanted.items() if "impala" not in run}
    same = [sweep.get(run) == rows for sweep in found for run, rows in repeating.items()]
    figures = {
        "synchronous_runs_as_undisturbed_ratio": sum(same) / len(same),
        "synchronous_runs": float(len(same)),
        "asynchronous_return_vs_undisturbed_ratio": as_good,
        "kills": float(sum(kills.values())),
        "undisturbed_sweep_seconds": undisturbed,
        "disturbed_sweep_seconds": total / len(wild),
    }
    targets = {"synchronous_runs_as_undisturbed_ratio": 1.0, "asynchronous_return_vs_undisturbed_ratio": 0.95}
    bench.finish(figures, targets, {**kills, "sweeps": len(wild)})


if __name__ == "__main__":
    main()
