"""A sweep under fire: workers, collectors and the driver are killed or made to hang at random, and nothing may be lost.

    python benchmarks/chaos.py [--quick] [--seconds 600]

Every run of a synchronous recipe must end with the same metrics, row by row, as in an undisturbed sweep; runs whose
experience comes from asynchronous collectors, which do not repeat, must end as good.
"""

from __future__ import annotations

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

from lab import config

LAB = [sys.executable, "-m", "lab.cli"]
COLLECTORS = ["kind=remote", "num=2", "num_cpus=0", "mode=asynchronous", "max_staleness=2"]
ASYNCHRONOUS = [*(f"data.collector.{word}" for word in COLLECTORS), "module.staleness=0"]
SYNCHRONOUS = {"classifier/digits-cnn": 600_000, "vae/digits": 400_000, "dqn/cartpole": 60_000}
QUICK = {"classifier/digits-cnn": 120_000, "dqn/cartpole": 15_000}
HANG_SECONDS = 15
_SILENT: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
_CLOCKS = ("seconds", "charts/steps_per_second")


def write_experiments(folder: Path, quick: bool) -> list[Path]:
    """The recipes as files, with budgets; the last one is the asynchronous one."""
    budgets = QUICK if quick else SYNCHRONOUS
    experiments = [config.resolve(recipe, [f"trainer.budget={budget}"]) for recipe, budget in budgets.items()]
    budget = 300_000 if quick else 1_000_000
    experiments.append(config.resolve("impala/cartpole", [f"trainer.budget={budget}", *ASYNCHRONOUS]))
    paths = [folder / f"{experiment.name.replace('/', '-')}.yaml" for experiment in experiments]
    for path, experiment in zip(paths, experiments, strict=True):
        path.write_text(config.to_yaml(experiment))
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
        return [process.pid for process in below if "ray::_Actor" in " ".join(process.cmdline())]
    except psutil.Error:
        return []


def disturbed(words: list[str], out: Path, seconds: float, generator: random.Random) -> dict[str, int]:
    """Run the sweep to its end, killing for the first `seconds`; returns how often what was killed."""
    kills = {"worker": 0, "collector": 0, "hang": 0, "driver": 0}
    began = time.monotonic()
    driver = subprocess.Popen([*LAB, "sweep", *words, "--out", str(out)], **_SILENT)
    while True:
        try:
            if driver.wait(timeout=generator.uniform(3, 12)) == 0:
                return kills
            raise RuntimeError(f"the driver ended with {driver.returncode}: {(out / 'state.json').read_text()}")
        except subprocess.TimeoutExpired:
            if time.monotonic() - began > seconds:
                continue
        what = generator.choices(list(kills), [5, 4, 1, 1])[0]
        victims = collectors(driver.pid) if what == "collector" else workers(out)
        if what == "driver" and (out / "state.json").is_file():
            driver.kill()
            driver.wait()
            driver = subprocess.Popen([*LAB, "resume", str(out)], **_SILENT)
        elif what != "driver" and victims:
            os.kill(generator.choice(victims), signal.SIGSTOP if what == "hang" else signal.SIGKILL)
        else:
            continue
        kills[what] += 1


def add_seconds(parser: ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, metavar="S", help="kill for so long (default: 600; quick: 60)")


def main() -> None:
    bench = Benchmark("chaos", __doc__, add_seconds)
    seconds = bench.options.seconds or (60.0 if bench.quick else 600.0)
    with tempfile.TemporaryDirectory() as name:
        paths = write_experiments(Path(name), bench.quick)
        options = ["--seeds", "2" if bench.quick else "5", "--retries", "1000", "--hang-seconds", str(HANG_SECONDS)]
        words = [*map(str, paths), "tracking.mode=disabled", "trainer.checkpoint_seconds=2", *options]
        calm, wild = Path(name) / "calm", Path(name) / "wild"
        began = time.monotonic()
        subprocess.run([*LAB, "sweep", *words, "--quiet", "--out", str(calm)], check=True, capture_output=True)
        undisturbed = time.monotonic() - began
        kills = disturbed(words, wild, seconds, random.Random(0))
        total = time.monotonic() - began - undisturbed
        wanted, found = metrics(calm), metrics(wild)
        as_good = statistics.fmean(returns(wild)) / statistics.fmean(returns(calm))
    repeating = {run: rows for run, rows in wanted.items() if "impala" not in run}
    same = sum(found.get(run) == rows for run, rows in repeating.items())
    figures = {
        "synchronous_runs_as_undisturbed_ratio": same / len(repeating),
        "asynchronous_return_vs_undisturbed_ratio": as_good,
        "kills": float(sum(kills.values())),
        "undisturbed_seconds": undisturbed,
        "disturbed_seconds": total,
    }
    targets = {"synchronous_runs_as_undisturbed_ratio": 1.0, "asynchronous_return_vs_undisturbed_ratio": 0.95}
    bench.finish(figures, targets, {**kills, "runs": len(wanted)})


if __name__ == "__main__":
    main()
