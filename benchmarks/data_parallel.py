"""Two workers on one experiment: samples a second against one process, at the same batch; seconds until they train,
against Ray Train; and seconds from the death of a worker until the run goes on.

    python benchmarks/data_parallel.py [--quick]
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from form import Benchmark, measure_pairs, run_json

RECIPE = "classifier/digits-lstm"
OVERRIDES = [
    "data.batch_size=128",
    "trainer.num_threads=1",
    "trainer.budget=1000000000",
    "trainer.eval_period=1000000000",
    "trainer.log_period=1",
    "trainer.checkpoint_seconds=1",
    "tracking.mode=disabled",
]

RAY_TRAIN = """
import json, os, sys, tempfile, time
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
began = time.time()

def work(settings):
    import time
    from pathlib import Path
    import lab.training.train
    import torch.distributed
    Path(settings["folder"], str(torch.distributed.get_rank())).write_text(str(time.time()))

import ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
folder = tempfile.mkdtemp()
TorchTrainer(
    work,
    train_loop_config={"folder": folder},
    scaling_config=ScalingConfig(num_workers=2),
    run_config=RunConfig(storage_path=folder + "/ray", name="start"),
).fit()
ray.shutdown()
print(json.dumps({"seconds": max(float(open(f"{folder}/{rank}").read()) for rank in range(2)) - began}))
"""


class Training:
    """A `lab train` in a folder of its own, watched from outside."""

    def __init__(self, folder: Path, num_workers: int) -> None:
        self.path, self.began = folder / "run", time.time()
        words = [RECIPE, *OVERRIDES, f"trainer.num_workers={num_workers}", "--quiet", "--out", str(self.path)]
        command = [sys.executable, "-m", "lab.cli", "train", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def rows(self) -> list[dict[str, float]]:
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def wait_for_rows(self, more_than: int) -> float:
        """Seconds from now until there are more rows."""
        began = time.time()
        while len(self.rows()) <= more_than:
            if self.process.poll() is not None:
                raise RuntimeError("the training ended")
            time.sleep(0.05)
        return time.time() - began

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def samples_per_second(num_workers: int, seconds: float) -> float:
    """Over the rows of so many seconds, start-up and the first row left out."""
    with tempfile.TemporaryDirectory() as name:
        training = Training(Path(name), num_workers)
        training.wait_for_rows(1)
        time.sleep(seconds)
        rows = training.rows()
        training.stop()
    return (rows[-1]["samples"] - rows[0]["samples"]) / (rows[-1]["seconds"] - rows[0]["seconds"])


def start_seconds() -> float:
    """From the command until two workers have trained a first chunk."""
    with tempfile.TemporaryDirectory() as name:
        training = Training(Path(name), 2)
        training.wait_for_rows(0)
        taken = time.time() - training.began
        training.stop()
    return taken


def recovery_seconds() -> float:
    """From SIGKILL of a worker until a row is written that was not there."""
    with tempfile.TemporaryDirectory() as name:
        training = Training(Path(name), 2)
        training.wait_for_rows(5)
        time.sleep(2.0)
        children = psutil.Process(training.process.pid).children(recursive=True)
        worker = next(child for child in children if "RankWorker" in " ".join(child.cmdline()))
        began = time.time()
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(1.0)  # for what the other rank still writes
        known = training.rows()[-1]["samples"]
        while training.rows()[-1]["samples"] <= known:  # the rows after the checkpoint are cut off, and written again
            time.sleep(0.05)
        taken = time.time() - began
        training.stop()
    return taken


def main() -> None:
    bench = Benchmark("data_parallel", __doc__)
    os.environ["OMP_NUM_THREADS"] = "1"
    seconds, repeats = (5.0, 1) if bench.quick else (15.0, 3)
    speed = measure_pairs(
        lambda: samples_per_second(2, seconds), lambda: samples_per_second(1, seconds), repeats=repeats
    )
    start = measure_pairs(
        start_seconds,
        lambda: float(run_json(sys.executable, RAY_TRAIN)["seconds"]),
        repeats=repeats,
        higher_is_better=False,
    )
    figures = {
        "two_workers_samples_per_second": speed.lab,
        "two_workers_vs_one_process_ratio": speed.ratio,
        "start_seconds": start.lab,
        "start_vs_ray_train_ratio": start.ratio,
        "recovery_seconds": statistics.median(recovery_seconds() for _ in range(repeats)),
    }
    targets = {
        "two_workers_vs_one_process_ratio": 1.8,
        "start_vs_ray_train_ratio": 1.0,
        "recovery_seconds": 15.0,
    }
    bench.finish(figures, targets, {"recipe": RECIPE, "one_process_samples_per_second": speed.peer})


if __name__ == "__main__":
    main()
