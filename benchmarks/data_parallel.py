"""Two workers on one experiment: samples a second against one process, at the same batch; seconds until they train,
against Ray Train; seconds from the death of a worker until the run goes on; and an all-reduce of two processes through
shared memory (lab/ranks/shared_memory.py) against torch.distributed's gloo, on idle cores and beside two busy loops.

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
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from form import Benchmark, measure_pairs, run_json

from lab.ranks import collectives, ranks

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

SIZES = (8, 20_000, 200_000, 2_000_000)
"""float32 numbers in an all-reduce: counters, and the gradients of a small, a middle and a large network"""

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


def all_reduce_milliseconds(repeats: int, num_busy: int) -> dict[str, float]:
    """Of two processes beside some that keep cores busy: medians through shared memory and gloo, and their ratio."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_busy)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(_all_reduce_rank, (folder, repeats), nprocs=2)
            times: dict[str, dict[str, list[float]]] = json.loads(Path(folder, "times.json").read_text())
    finally:
        for process in busy:
            process.kill()
            process.wait()
    figures = {}
    for size, values in times.items():
        name = f"all_reduce_{size}{'_busy' if num_busy else ''}"
        for way in ("shared_memory", "gloo"):
            figures[f"{name}_{way}_milliseconds"] = 1000 * statistics.median(values[way])
        ratios = [g / s for g, s in zip(values["gloo"], values["shared_memory"], strict=True)]
        figures[f"{name}_vs_gloo_ratio"] = statistics.median(ratios)
    return figures


def _all_reduce_rank(rank: int, folder: str, repeats: int) -> None:
    """Write down the seconds of each way and size, both in turn; each value is a mean over 20."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    ways = {"shared_memory": collectives.all_reduce, "gloo": dist.all_reduce}
    times: dict[int, dict[str, list[float]]] = {size: {way: [] for way in ways} for size in SIZES}
    with ranks.joined(f"file://{folder}/meeting", rank, 2):
        for i in range(repeats + 1):
            for size, values in times.items():
                x = torch.zeros(size)
                for way, all_reduce in list(ways.items())[:: 1 if i % 2 else -1]:
                    began = time.perf_counter()
                    for _ in range(20):
                        all_reduce(x)
                    if i:  # the first is to warm up
                        values[way].append((time.perf_counter() - began) / 20)
    if rank == 0:
        Path(folder, "times.json").write_text(json.dumps(times))


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
    all_reduce = {}
    for num_busy in (0, 2):
        all_reduce |= all_reduce_milliseconds(10 if bench.quick else 40, num_busy)
    figures = {
        "two_workers_samples_per_second": speed.lab,
        "two_workers_vs_one_process_ratio": speed.ratio,
        "start_seconds": start.lab,
        "start_vs_ray_train_ratio": start.ratio,
        "recovery_seconds": statistics.median(recovery_seconds() for _ in range(repeats)),
        **all_reduce,
    }
    targets = {
        "two_workers_vs_one_process_ratio": 1.8,
        "start_vs_ray_train_ratio": 1.0,
        "recovery_seconds": 15.0,
        **{key: 1.15 for key in all_reduce if key.endswith("_ratio")},
    }
    bench.finish(figures, targets, {"recipe": RECIPE, "one_process_samples_per_second": speed.peer})


if __name__ == "__main__":
    main()
