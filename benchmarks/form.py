"""The one form of all benchmarks: `python benchmarks/NAME.py [--quick]`.

    bench = Benchmark("replay", __doc__)
    peer = peer_python(["stable-baselines3==2.9.2"])               # a venv of its own, made once
    pairs = measure_pairs(
        lambda: run_json(sys.executable, LAB_SCRIPT, threads=1)["per_second"],
        lambda: run_json(peer, PEER_SCRIPT, threads=1)["per_second"],
        repeats=3 if bench.quick else 9,
    )
    bench.finish({"sample_per_second": pairs.lab, "sample_vs_sb3_ratio": pairs.ratio}, {"sample_vs_sb3_ratio": 2.0})

`finish` prints a table, writes `benchmarks/results/NAME-<machine>.json`, and prints one JSON object as the last line.
A number that misses its target is shown as such and never makes the script fail.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"
CACHE = Path(os.environ.get("LAB_BENCHMARKS_CACHE", "~/.cache/lab-benchmarks")).expanduser()
_LOWER_IS_BETTER = (
    "_seconds",
    "_milliseconds",
    "_microseconds",
    "_gb",
    "_mb",
    "_nats",
    "_bits",
    "_bits_per_dim",
    "_fid",
    "_frechet_ratio",
    "_faults",
)
_VERSIONS = ("lab", "torch", "lightning", "ray", "gymnasium", "wandb", "numpy")


class Pairs(NamedTuple):
    """What `measure_pairs` measured: one value of the lab and one of the peer for each repeat."""

    lab_values: list[float]
    peer_values: list[float]
    higher_is_better: bool

    @property
    def lab(self) -> float:
        """The lab's median."""
        return statistics.median(self.lab_values)

    @property
    def peer(self) -> float:
        """The peer's median."""
        return statistics.median(self.peer_values)

    @property
    def ratios(self) -> list[float]:
        """One ratio for each pair; above 1 means that the lab is better."""
        pairs = zip(self.lab_values, self.peer_values, strict=True)
        return [lab / peer if self.higher_is_better else peer / lab for lab, peer in pairs]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)


def measure_pairs(
    lab: Callable[[], float], peer: Callable[[], float], repeats: int, *, higher_is_better: bool = True
) -> Pairs:
    """Measure lab and peer in turn, the other one first in every second pair, so that slow minutes hit both alike.

    `higher_is_better` says whether the values are rates (True) or durations and losses (False).
    """
    lab_values: list[float] = []
    peer_values: list[float] = []
    for i in range(repeats):
        for values, measure in ((lab_values, lab), (peer_values, peer))[:: 1 if i % 2 == 0 else -1]:
            values.append(float(measure()))
        _say(f"pair {i + 1} of {repeats}: lab {lab_values[-1]:.5g}, peer {peer_values[-1]:.5g}")
    return Pairs(lab_values, peer_values, higher_is_better)


def measure(call: Callable[[], float], repeats: int) -> float:
    """The median of `repeats` calls."""
    return statistics.median(float(call()) for _ in range(repeats))


def run_json(python: Path | str, script: Path | str, *arguments: object, threads: int | None = None) -> dict[str, Any]:
    """Run a script (a path, or source text) with `python`; its last line of output is one JSON object.

    `threads` sets the threads of the numeric libraries. Raises RuntimeError with the end of its output if it fails.
    """
    source = ["-c", script] if isinstance(script, str) and "\n" in script else [str(script)]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    if threads is not None:
        environment |= {key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    done = subprocess.run(
        [str(python), *source, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"a benchmark's process ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}"
        )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def peer_python(requirements: Sequence[str], unpinned: Sequence[str] = ()) -> Path:
    """The Python of a cached environment that holds a peer's packages beside the torch that the lab uses.

    `unpinned` packages come without what they ask for, for peers that pin an old Python or an old torch.
    Made at the first call, kept below ~/.cache/lab-benchmarks (LAB_BENCHMARKS_CACHE moves it).
    Raises RuntimeError with pip's last lines when the packages cannot be installed.
    """
    wanted = sorted({*requirements, "torch==2.13.*"})
    key = hashlib.sha256("\n".join([platform.python_version(), *wanted, *unpinned]).encode()).hexdigest()[:16]
    folder = CACHE / key
    python = folder / "bin" / "python"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "ready").exists():
            return python
        shutil.rmtree(folder, ignore_errors=True)
        _say(f"installing {', '.join([*wanted, *unpinned])} into {folder} (once)")
        _must([sys.executable, "-m", "venv", str(folder)])
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        _must([*pip, *wanted])
        if unpinned:
            _must([*pip, "--no-deps", "--ignore-requires-python", *unpinned])
        (folder / "ready").write_text("\n".join([*wanted, *unpinned]) + "\n")
    return python


_CLEANRL = """
import contextlib, io, json, os, runpy, sys, tempfile, warnings
import torch
torch.set_num_threads(1)
warnings.simplefilter("ignore")
script, steps = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)  # it writes TensorBoard files
    sys.argv = [f"{script}.py", "--total-timesteps", steps, "--cuda", "False"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_module(f"cleanrl.{script}", run_name="__main__")
    os.chdir("/")
print(json.dumps({"rates": [float(line.split()[1]) for line in printed.getvalue().splitlines() if line[:4] == "SPS:"]}))
"""


def cleanrl_rates(script: str, steps: int) -> list[float]:
    """What CleanRL's own `dqn` or `ppo` prints while it trains on CartPole: all steps over the time since its first.

    CleanRL 1.2.0, the newest on PyPI, with gymnasium and Stable-Baselines3 from its time; its ppo.py needs gym.
    """
    needs = ["gym==0.23.1", "gymnasium==0.29.1", "numpy<2", "pygame==2.6.1", "stable-baselines3==2.3.2"]
    python = peer_python([*needs, "tensorboard==2.20.0"], unpinned=["cleanrl==1.2.0"])
    return [float(rate) for rate in run_json(python, _CLEANRL, script, steps, threads=1)["rates"]]


class Benchmark:
    """One script's name, options and results."""

    def __init__(
        self, name: str, description: str | None, options: Callable[[argparse.ArgumentParser], None] | None = None
    ) -> None:
        """Parse the command line; `options` may add arguments of the script's own, found in `self.options`."""
        parser = argparse.ArgumentParser(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        parser.add_argument("--quick", action="store_true", help="every figure, from shorter and fewer runs")
        if options is not None:
            options(parser)
        self.options = parser.parse_args()
        self.quick: bool = self.options.quick
        self.name = name
        self.started = datetime.now(UTC)
        _say(f"{name}{' (quick)' if self.quick else ''} on {machine()['name']}")

    def result_path(self, suffix: str = ".json") -> Path:
        """Where a result of this benchmark on this machine goes, e.g. with ".png" for its curves."""
        RESULTS.mkdir(exist_ok=True)
        return RESULTS / f"{self.name}-{machine()['name']}{suffix}"

    def finish(
        self,
        figures: Mapping[str, float | None],
        targets: Mapping[str, float] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Print the table, write the results, print the JSON line. `details` (curves, raw values) go to the file only.

        A figure of None (or not finite) is one that could not be measured here. A quick run does not replace the file
        of a full one.
        """
        targets = dict(targets or {})
        rounded = {
            key: None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
            for key, value in figures.items()
        }
        self._print_table(rounded, targets)
        line = {"benchmark": self.name, "figures": rounded, "targets": targets, "machine": machine()}
        result = {
            **line,
            "quick": self.quick,
            "date": self.started.isoformat(timespec="seconds"),
            "seconds": round((datetime.now(UTC) - self.started).total_seconds(), 1),
            "command": shlex.join(["python", str(_script()), *sys.argv[1:]]),
            "versions": versions(),
            "details": dict(details or {}),
        }
        path = self.result_path()
        if self.quick and path.exists() and not json.loads(path.read_text(encoding="utf-8"))["quick"]:
            _say(f"{path} holds a full run's figures and is left as it is")
        else:
            path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            _say(f"written: {path}")
        sys.stderr.flush()
        print(json.dumps(line), flush=True)

    def _print_table(self, figures: Mapping[str, float | None], targets: Mapping[str, float]) -> None:
        table = Table(title=f"{self.name} on {machine()['name']}{' (quick)' if self.quick else ''}")
        table.add_column("figure")
        for column in ("value", "target", ""):
            table.add_column(column, justify="right")
        for key in [*figures, *(key for key in targets if key not in figures)]:
            value, target = figures.get(key), targets.get(key)
            verdict = "" if value is None or target is None else ("met" if meets(key, value, target) else "missed")
            shown = "not measured" if value is None else f"{value:,.5g}"
            table.add_row(key, shown, "" if target is None else f"{target:,.5g}", verdict)
        Console(width=max(100, shutil.get_terminal_size().columns)).print(table)


def _script() -> Path:
    """The script that runs, from the project's root."""
    script, root = Path(sys.argv[0]).resolve(), RESULTS.parents[1]
    return script.relative_to(root) if script.is_relative_to(root) else script


def meets(figure: str, value: float, target: float) -> bool:
    """Whether a figure is at least as good as its target; its name says which direction is good."""
    return value <= target if figure.endswith(_LOWER_IS_BETTER) else value >= target


@lru_cache(maxsize=1)
def machine() -> dict[str, Any]:
    """The machine: a short `name` for files, cpu, cores, memory, gpu, operating system."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        cpu = found[1].strip() if found else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpu = _gpu()
    words = f"{gpu} {cores}-core" if gpu else f"{re.sub(r'[(].*?[)]|CPU|Processor|@.*', ' ', cpu)} {cores}-core"
    name = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "name": name,
        "cpu": cpu,
        "cores": cores,
        "memory_gb": round(memory, 1),
        "gpu": gpu,
        "os": f"{platform.system()} {platform.machine()}",
    }


def _gpu() -> str | None:
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    lines = asked.stdout.strip().splitlines() if asked.returncode == 0 else []
    return f"{len(lines)}x {lines[0]}" if len(lines) > 1 else (lines[0] if lines else None)


def versions() -> dict[str, str]:
    """Of Python, packages and this checkout."""
    versions = {"python": platform.python_version()}
    for package in _VERSIONS:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    git = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty", "--exclude=*"]
    described = subprocess.run(git, capture_output=True, text=True, check=False)
    if described.returncode == 0:
        versions["commit"] = described.stdout.strip()
    return versions


def _must(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
