"""What a long life costs: memory, open files and threads of a training, of a sweep of short runs and of `lab board`.

    python benchmarks/reliability/soak.py [--seconds 3600] [--quick]

The three run side by side, the board over the training's folder; each is looked at every second after it has got going.
What grows is told by the medians of the second and the last quarter of its time. A replay buffer, which takes memory as
it fills, is small enough here to be full by then.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil

sys.path.append(str(Path(__file__).resolve().parent.parent))
from form import Benchmark

_LAB = [sys.executable, "-m", "lab.cli"]
_ENDLESS = [
    "trainer.budget=1000000000",
    "trainer.num_threads=1",
    "tracking.mode=disabled",
    "trainer.checkpoint_seconds=5",
]
_PORT = 8799


class Look(NamedTuple):
    """A process and its children at one moment."""

    memory_mb: float
    files: int
    threads: int


def look(process: psutil.Process) -> Look:
    """Resident memory (shared pages counted once a process), open files and threads."""
    memory, files, threads = 0.0, 0, 0
    for each in [process, *process.children(recursive=True)]:
        try:
            memory += each.memory_full_info().uss / 2**20
            files += each.num_fds()
            threads += each.num_threads()
        except psutil.Error:
            continue
    return Look(memory, files, threads)


def soak(command: list[str], seconds: float, start: float, home: Path, ask: str | None = None) -> list[Look]:
    """Looks at a command, one a second, from `start` seconds on; then it ends by SIGTERM."""
    with (home / "log.txt").open("a") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, cwd=home, start_new_session=True)
    looks = []
    try:
        time.sleep(start)
        process, end = psutil.Process(running.pid), time.monotonic() + seconds
        while time.monotonic() < end:
            assert running.poll() is None, (home / "log.txt").read_text()[-500:]
            if ask is not None:
                urllib.request.urlopen(ask, timeout=30).read()
            looks.append(look(process))
            time.sleep(1)
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(120)
    return looks


def growth(looks: list[Look]) -> dict[str, float]:
    """By how much the last quarter is above the second."""
    quarter = len(looks) // 4
    early, late = looks[quarter : 2 * quarter], looks[-quarter:]
    return {
        name: statistics.median(getattr(each, name) for each in late)
        - statistics.median(getattr(each, name) for each in early)
        for name in Look._fields
    }


def main() -> None:
    def options(parser: Any) -> None:
        parser.add_argument("--seconds", type=float, help="of each (default: 3600; 40 with --quick)")

    bench = Benchmark("reliability_soak", __doc__, options)
    seconds = bench.options.seconds or (40.0 if bench.quick else 3_600.0)
    root = Path(tempfile.mkdtemp(prefix="lab-soak-"))
    (root / "watched").mkdir()
    os.environ |= {"OMP_NUM_THREADS": "1"}
    dqn = [
        *_LAB,
        "train",
        "dqn/cartpole",
        *_ENDLESS,
        "data.replay.capacity=20000",
        "trainer.eval_period=20000",
        f"--out={root / 'watched' / 'run'}",
        "--quiet",
    ]
    short = ["trainer.budget=6400", "trainer.film=false", "tracking.mode=disabled", "--quiet"]
    sweep = [*_LAB, "sweep", "classifier/digits-cnn", "--seeds", "100000", *short]
    commands = {
        "dqn": (dqn, 25.0, None),
        "sweep": (sweep, 40.0, None),
        "board": (
            [*_LAB, "board", str(root / "watched"), "--port", str(_PORT)],
            40.0,
            f"http://127.0.0.1:{_PORT}/data",
        ),
    }
    figures: dict[str, float] = {}
    with ThreadPoolExecutor() as pool:
        soaking = {}
        for name, (command, start, ask) in commands.items():
            (root / name).mkdir()
            soaking[name] = pool.submit(soak, command, seconds, start, root / name, ask)
    for name, ended in soaking.items():
        looks = ended.result()
        grown = growth(looks)
        print(f"{name}: at first {looks[0]}, at last {looks[-1]}", flush=True)
        figures |= {f"{name}_memory_at_last_mb": looks[-1].memory_mb, f"{name}_memory_growth_mb": grown["memory_mb"]}
        figures |= {f"{name}_{part}_growth": grown[part] for part in ("files", "threads")}
    shutil.rmtree(root, ignore_errors=True)
    bench.finish(figures, {f"{name}_memory_growth_mb": 20 for name in commands})


if __name__ == "__main__":
    main()
