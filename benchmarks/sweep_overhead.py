"""What a sweep costs: 8 runs of a minute on 2 CPUs (4 of 5 s with --quick) against the same runs by hand, one after the
other (one of them, taken as often, for all have the same budget) and two at a time (two of them); and with runs of 3 s,
where overhead counts most, against Ray Tune around the same `lab.training.train.train` with its actors reused.

    python benchmarks/sweep_overhead.py [--quick]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from form import Benchmark, run_json

RECIPE = "classifier/digits-lstm"
LAB = [sys.executable, "-m", "lab.cli"]

TUNE = """
import json, os, sys, time
began = time.perf_counter()
folder, budget = sys.argv[1], sys.argv[2]
from ray import tune
import ray

def work(settings):
    from pathlib import Path
    from lab.config.overrides import resolve
    from lab.training.train import train
    words = [f"seed={settings['seed']}", f"trainer.budget={budget}", "trainer.num_threads=1",
             "trainer.eval_period=1000000000", "tracking.mode=disabled"]
    train(resolve(settings["recipe"], words), run_dir=Path(folder) / str(settings["seed"]))
    tune.report({"done": 1})

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
tuner = tune.Tuner(
    tune.with_resources(work, {"cpu": 1}),
    param_space={"recipe": sys.argv[3], "seed": tune.grid_search(list(range(int(sys.argv[4]))))},
    tune_config=tune.TuneConfig(reuse_actors=True),
    run_config=tune.RunConfig(storage_path=folder + "/tune", verbose=0),
)
assert not tuner.fit().errors
ray.shutdown()
print(json.dumps({"seconds": time.perf_counter() - began}))
"""


def overrides(budget: int) -> list[str]:
    """Every run trains for so many samples, without evaluations or tracking, on one thread."""
    return [
        f"trainer.budget={budget}",
        "trainer.num_threads=1",
        "trainer.eval_period=1000000000",
        "tracking.mode=disabled",
    ]


def budget_of(folder: Path, seconds: float) -> int:
    """How many samples a run alone trains on in so many seconds."""
    words = [*overrides(10**9), f"trainer.max_seconds={min(seconds, 8.0)}", "--quiet", "--out", str(folder)]
    subprocess.run([*LAB, "train", RECIPE, *words], check=True, capture_output=True)
    result = json.loads((folder / "result.json").read_text())
    return int(seconds * result["samples"] / result["seconds"])


def by_hand(folder: Path, budget: int, at_once: int, num_runs: int) -> float:
    """Seconds for some runs, each a `lab train` of its own, `at_once` at a time."""
    began = time.perf_counter()
    command = [*LAB, "train", RECIPE, *overrides(budget), "--quiet"]
    for first in range(0, num_runs, at_once):
        seeds = range(first, first + at_once)
        processes = [
            subprocess.Popen([*command, f"seed={seed}", "--out", str(folder / str(seed))], stdout=subprocess.DEVNULL)
            for seed in seeds
        ]
        if any(process.wait() for process in processes):
            raise RuntimeError("a training failed")
    return time.perf_counter() - began


def sweep(out: Path, words: list[str], num_runs: int) -> float:
    """Seconds of a `lab sweep`."""
    began = time.perf_counter()
    command = [*LAB, "sweep", RECIPE, "--seeds", str(num_runs), *words, "--quiet", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def later_starts(out: Path, num_workers: int = 2) -> list[float]:
    """Seconds from the end of a run to when its worker trains the next one."""
    results = list(out.glob("runs/*/result.json"))
    ends = sorted(path.stat().st_mtime for path in results)
    starts = sorted(path.stat().st_mtime - json.loads(path.read_text())["seconds"] for path in results)
    return [start - end for start, end in zip(starts[num_workers:], ends, strict=False)]


def main() -> None:
    bench = Benchmark("sweep_overhead", __doc__)
    os.environ["OMP_NUM_THREADS"] = "1"
    seconds, num_runs = (5.0, 4) if bench.quick else (60.0, 8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        budget = budget_of(folder / "calibration", seconds)
        one = by_hand(folder / "one", budget, 1, 1)
        swept = sweep(folder / "sweep", overrides(budget), num_runs)
        two = by_hand(folder / "two", budget, 2, 2)
        short = int(budget * 3 / seconds)
        swept_short = sweep(folder / "sweep-short", overrides(short), num_runs)
        tuned_short = run_json(sys.executable, TUNE, folder / "tuned", short, RECIPE, num_runs, threads=1)["seconds"]
        starts = later_starts(folder / "sweep-short")
    figures = {
        "sweep_seconds": swept,
        "sweep_vs_one_after_the_other_ratio": one * num_runs / swept,
        "sweep_vs_two_at_a_time_ratio": two * num_runs / 2 / swept,
        "runs_of_3_s_sweep_vs_tune_ratio": tuned_short / swept_short,
        "later_run_start_seconds": statistics.fmean(starts),
    }
    targets = {
        "sweep_vs_one_after_the_other_ratio": 1.8,
        "sweep_vs_two_at_a_time_ratio": 1 / 1.1,
        "runs_of_3_s_sweep_vs_tune_ratio": 1.0,
        "later_run_start_seconds": 1.5,
    }
    details = {"runs": num_runs, "budget": budget, "one_seconds": one, "two_at_once_seconds": two, "starts": starts}
    bench.finish(figures, targets, details | {"short": swept_short, "short_tune": tuned_short})


if __name__ == "__main__":
    main()
