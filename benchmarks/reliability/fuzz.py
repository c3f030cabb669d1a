"""Thousands of broken configs, command lines, files and runs: each ends in a sentence, in time, and harms nothing.

    python benchmarks/reliability/fuzz.py [--cases 5000] [--seed 0] [--quick]
    python benchmarks/reliability/fuzz.py --case yaml-17          # one again, with its output

Cases are mutations (mutate.py) of good ones, each a function of the seed and its number:

overrides    `lab show RECIPE field=value ...`
lines        command lines of every command that trains nothing
yaml         an experiment's file
runs         result.json, metrics.jsonl, experiment.yaml of a run among good ones: compare, list, a report page
checkpoints  bytes of best.ckpt, or files missing, empty, cut: evaluate
data         images in IDX, .npz, folders; text; episodes: some training samples

A case is faulty when it ends in a traceback or in an error that nobody has put into words, with another exit code than
0 (done), 1 (failed), 2 (bad input) or 130, after more than 10 s, with more than 1 GB above what the lab takes itself,
or with a file changed outside of its folder. Each runs in a process forked from one that has loaded the lab.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parent.parent))
import mutate
import numpy as np
from form import Benchmark
from PIL import Image

_SECONDS, _GB = 10.0, 1e9
_CODES = (0, 1, 2, 130)
_UNWORDED = ("Traceback (most recent call last)", "(--debug shows where)")
SHARES = {"overrides": 0.3, "lines": 0.2, "yaml": 0.2, "runs": 0.15, "checkpoints": 0.1, "data": 0.05}
_TINY = ["trainer.budget=64", "trainer.eval_period=64", "tracking.mode=disabled", "trainer.num_threads=1"]
_LINES = (
    ["list"],
    ["list", "--runs"],
    ["show", "dqn/cartpole", "seed=3"],
    ["compare", "GOOD", "--json"],
    ["compare", "GOOD", "--metric", "eval/return_mean", "--threshold", "3", "--html", "page.html"],
    ["evaluate", "RUN", "--episodes", "2"],
    ["play", "RUN", "--render", "none", "--episodes", "1", "--video", "a.gif"],
    ["sample", "VAE", "--n", "4", "--out", "a.png"],
    ["export", "RUN", "--out", "exported"],
    ["resume", "RUN"],
    ["sweep", "dqn/cartpole", "module.gamma=0.9,0.9", "LAST", "nosuch.field=1"],
    ["submit", "train", "dqn/cartpole"],
    ["sync", "RUN"],
    ["completion", "--words", "train", "dqn/"],
    ["board", "GOOD", "LAST", "--port", "99999"],
)
"""what stands behind LAST is not mutated: these commands must not begin, since they would go on for long"""


class Case(NamedTuple):
    """A command line in a folder of its own."""

    name: str
    words: list[str]


class Outcome(NamedTuple):
    """How a case ended; `fault` is empty when it ended well."""

    name: str
    code: int
    seconds: float
    gigabytes: float
    fault: str
    output: str


def make_good(root: Path) -> None:
    """The good runs and data that cases begin with."""
    from lab.cli import main

    runs = {
        "agent": ["dqn/cartpole", "trainer.budget=512", "data.learning_starts=128", "module.backbone.hidden=[16]"],
        "vae": ["vae/digits", "trainer.budget=512"],
        "classifier": ["classifier/digits-cnn", "trainer.budget=512"],
    }
    for name, words in runs.items():
        code = main(["train", *words, *_TINY[1:], "--quiet", "--out", str(root / "runs" / name)])
        assert code == 0, name
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (60, 8, 8), np.uint8), np.arange(60) % 3
    (root / "npz").mkdir()
    np.savez(root / "npz" / "x.npz", x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    (root / "idx").mkdir()
    for name, count in (("train", 60), ("t10k", 9)):
        for kind, array in (("images-idx3", images[:count]), ("labels-idx1", labels[:count].astype(np.uint8))):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (root / "idx" / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    for index, image in enumerate(images[:24]):
        folder = root / "folder" / f"class-{index % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    (root / "text").mkdir()
    (root / "text" / "input.txt").write_text("To be, or not to be, that is the question.\n" * 200)
    assert main(["play", str(root / "runs" / "agent"), "--render", "none", "--record", str(root / "episodes")]) == 0


def make_case(kind: str, number: int, seed: int, good: Path, folder: Path, recipes: list[str]) -> Case:
    """Write the files of a case into `folder`."""
    generator = random.Random(f"{seed} {kind} {number}")
    return Case(f"{kind}-{number}", _KINDS[kind](generator, good, folder, recipes))


def _overrides(generator: random.Random, good: Path, folder: Path, recipes: list[str]) -> list[str]:
    from lab.config.completion import fields_of

    recipe = generator.choice(recipes)
    fields = list(fields_of(recipe))
    chosen = [
        f"{generator.choice(fields)}={generator.choice(mutate.WORDS)}" for _ in range(generator.choice((1, 2, 4)))
    ]
    line = ["show", recipe, *chosen]
    return [word.replace("\x00", "") for word in (mutate.words(generator, line) if generator.random() < 0.3 else line)]


def _lines(generator: random.Random, good: Path, folder: Path, recipes: list[str]) -> list[str]:
    shutil.copytree(good / "runs", folder / "runs")
    names = {"GOOD": "runs", "RUN": "runs/agent", "VAE": "runs/vae"}
    command, *rest = [names.get(word, word) for word in generator.choice(_LINES)]
    last = rest.index("LAST") if "LAST" in rest else len(rest)
    return [command, *mutate.words(generator, rest[:last]), *rest[last + 1 :]]


def _yaml(generator: random.Random, good: Path, folder: Path, recipes: list[str]) -> list[str]:
    content = (good / "runs" / generator.choice(("agent", "vae", "classifier")) / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(mutate.text(generator, content), encoding="utf-8", errors="replace")
    return ["show", "experiment.yaml"]


def _runs(generator: random.Random, good: Path, folder: Path, recipes: list[str]) -> list[str]:
    shutil.copytree(good / "runs", folder / "runs")
    for _ in range(generator.choice((1, 1, 2))):
        run = folder / "runs" / generator.choice(("agent", "vae"))
        path = run / generator.choice(("result.json", "metrics.jsonl", "experiment.yaml", "system.jsonl"))
        if path.is_file() and path.stat().st_size:
            path.write_text(
                mutate.text(generator, path.read_text(errors="replace")), encoding="utf-8", errors="replace"
            )
    lines = (
        ["compare", "runs", "--json"],
        ["compare", "runs"],
        ["compare", "runs", "--html", "page.html"],
        ["list", "--runs"],
        ["resume", "runs/agent", "--quiet"],
    )
    return generator.choice(lines)


def _checkpoints(generator: random.Random, good: Path, folder: Path, recipes: list[str]) -> list[str]:
    name = generator.choice(("agent", "vae", "classifier"))
    shutil.copytree(good / "runs" / name, folder / "run")
    path = folder / "run" / "checkpoints" / generator.choice(("best.ckpt", "last.ckpt"))
    kind = generator.randrange(5)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(b"")
    else:
        path.write_bytes(mutate.binary(generator, path.read_bytes()))
    replay = sorted((folder / "run").rglob("segment-*.npz"))
    if replay and generator.random() < 0.3:
        replay[0].write_bytes(mutate.binary(generator, replay[0].read_bytes()))
    if path.name == "last.ckpt":
        return ["resume", "run", "trainer.budget=600", "--quiet"]
    return ["evaluate", "run", "--episodes", "2"]


def _data(generator: random.Random, good: Path, folder: Path, recipes: list[str]) -> list[str]:
    name = generator.choice(("npz", "idx", "folder", "text", "episodes"))
    shutil.copytree(good / name, folder / name)
    for _ in range(generator.choice((1, 1, 3))):
        path = generator.choice(sorted(path for path in (folder / name).rglob("*") if path.is_file()))
        if path.suffix in (".txt", ".json"):
            path.write_text(
                mutate.text(generator, path.read_text(errors="replace")), encoding="utf-8", errors="replace"
            )
        elif generator.random() < 0.1:
            path.rename(path.with_suffix(generator.choice((".txt", ".PNG", ".tif", ""))))
        else:
            path.write_bytes(mutate.binary(generator, path.read_bytes()))
    if name == "text":
        return ["train", "lm/shakespeare-lstm", "data.name=text/input.txt", *_TINY, "--quiet"]
    if name == "episodes":
        return ["train", "bc/cartpole", "data.path=episodes", *_TINY, "--quiet"]
    return ["train", "classifier/digits-cnn", f"data.name={name}", *_TINY, "--quiet"]


_KINDS: dict[str, Callable[[random.Random, Path, Path, list[str]], list[str]]] = {
    "overrides": _overrides,
    "lines": _lines,
    "yaml": _yaml,
    "runs": _runs,
    "checkpoints": _checkpoints,
    "data": _data,
}


def run_case(case: Case, folder: Path, own_gigabytes: float, outside: Path) -> Outcome:
    """Run a case in a forked process."""
    before, began = fingerprint(outside), time.monotonic()
    output = folder.with_suffix(".txt")
    child = os.fork()
    if child == 0:
        _run_here(case, folder, output)
    code, gigabytes, seconds = _wait(child, began)
    said = output.read_text(errors="replace") if output.is_file() else ""
    output.unlink(missing_ok=True)
    faults = [mark for mark in _UNWORDED if mark in said]
    if seconds > _SECONDS:
        faults.append(f"{seconds:.0f} s")
    if code not in _CODES:
        faults.append(f"exit code {code}")
    if gigabytes - own_gigabytes > 1:
        faults.append(f"{gigabytes - own_gigabytes:.1f} GB")
    if fingerprint(outside) != before:
        faults.append("a file outside its folder changed")
    return Outcome(case.name, code, seconds, gigabytes, "; ".join(faults), f"$ lab {' '.join(case.words)}\n{said}")


def _run_here(case: Case, folder: Path, output: Path) -> None:
    """In the forked process: the command, with what it says in a file."""
    code = 70
    try:
        os.setsid()
        with output.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), write_through=True)
            sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), write_through=True)
            sys.stdin = Path(os.devnull).open()  # noqa: SIM115
            os.chdir(folder)
            os.environ |= {"LAB_RUNS": str(folder / "runs"), "LAB_CLUSTER": str(folder / "cluster")}
            from lab.cli import main

            code = main(case.words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 70
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(child: int, began: float) -> tuple[int, float, float]:
    """Exit code, peak memory in GB and seconds of a process, which is ended after twice its time.

    Of one that works, seconds are those that it had a core, which others may have had in between; of one that waits, by
    the clock.
    """
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        seconds = time.monotonic() - began
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # what it may have left
            worked = usage.ru_utime + usage.ru_stime
            seconds = min(worked, seconds) if worked > seconds / 2 else seconds
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024 / _GB, seconds
        if seconds > 2 * _SECONDS:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        time.sleep(0.005)


def fingerprint(folder: Path) -> str:
    """When files below a folder were changed, and their sizes; but for the caches of other libraries at its top."""
    files = [path for path in sorted(folder.rglob("*")) if not path.relative_to(folder).parts[0].startswith(".")]
    found = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def load_lab() -> None:
    """Import what commands need, once."""
    import importlib

    import torch

    from lab import catalog

    torch.set_num_threads(1)
    for entry in catalog.commands().values():
        importlib.import_module(entry.module)
    for name in ("lab.training.train", "agents.algorithms.dqn", "generative.latent.vae", "lab.comparison.comparison"):
        importlib.import_module(name)


def main() -> None:
    def options(parser: Any) -> None:
        parser.add_argument("--cases", type=int, help="how many (default: 5000; 300 with --quick)")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--case", metavar="NAME", help="one case again, with its output")

    bench = Benchmark("reliability_fuzz", __doc__, options)
    total = bench.options.cases or (300 if bench.quick else 5_000)
    root = Path(tempfile.mkdtemp(prefix="lab-fuzz-"))
    outside = root / "outside"
    good = outside / "good"
    good.mkdir(parents=True)
    os.environ |= {"HOME": str(outside), "LAB_DATA": str(outside / "data"), "WANDB_MODE": "disabled"}
    os.environ |= {"RAY_AUTH_TOKEN": "x", "COLUMNS": "100"}
    (outside / "data").mkdir()
    load_lab()
    child = os.fork()
    if child == 0:  # the good runs are made aside: the parent of all cases has not trained
        with contextlib.redirect_stdout(io.StringIO()):
            make_good(good)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GB
    from lab import catalog

    recipes = sorted(catalog.scan().recipes)
    names = [(kind, number) for kind, share in SHARES.items() for number in range(max(1, round(share * total)))]
    if bench.options.case:
        kind, _, number = bench.options.case.rpartition("-")
        names = [(kind, int(number))]
    outcomes = []
    for index, (kind, number) in enumerate(names):
        folder = root / "cases" / str(index)
        folder.mkdir(parents=True)
        case = make_case(kind, number, bench.options.seed, good, folder, recipes)
        outcome = run_case(case, folder, own, outside)
        outcomes.append(outcome)
        shutil.rmtree(folder, ignore_errors=True)
        if outcome.fault or bench.options.case:
            print(
                f"{outcome.name}: {outcome.fault or 'well'} (code {outcome.code})\n{outcome.output[-1500:]}", flush=True
            )
    shutil.rmtree(root, ignore_errors=True)
    if bench.options.case:
        return
    figures = {
        "cases": len(outcomes),
        "fuzz_faults": sum(bool(outcome.fault) for outcome in outcomes),
        "bad_input_told_cases": sum(outcome.code == 2 for outcome in outcomes),
        "done_cases": sum(outcome.code == 0 for outcome in outcomes),
        "longest_seconds": max(outcome.seconds for outcome in outcomes),
        "most_memory_gb": max(outcome.gigabytes for outcome in outcomes),
    }
    bench.finish(figures, {"fuzz_faults": 0})


if __name__ == "__main__":
    main()
