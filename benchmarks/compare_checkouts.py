"""Whether two checkouts of the lab learn the same, and as fast: every recipe's first steps or samples, row by row.

    python benchmarks/compare_checkouts.py BEFORE AFTER --out FOLDER [--steps 20000] [--seconds 60] [--repeats 5]
        [RECIPE ...]

Each recipe is trained in both checkouts with the same seed, budget and thread; a run that is slow is stopped after
`--seconds`. The rows of metrics that both wrote are compared, but for the numbers that follow the clock; floats may
differ by `--tolerance` of their size, and the largest difference is shown; metrics that only AFTER has do not count.
With `--repeats` both train so often, in turn, and the seconds from the first row that both wrote to the last are
compared: the median of the pairs' ratios, above 1 where AFTER is slower. Runs that lie in FOLDER already are not
trained again. Exit code 1 when any recipe differs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

_BY_THE_CLOCK = ("seconds", "charts/steps_per_second")
_DEMONSTRATOR = {"bc/cartpole": "dqn/cartpole"}
_NEEDS_RUN = {"vq-vae/digits-prior": "vq-vae/digits", "vq-vae/mnist-prior": "vq-vae/mnist"}
_SKIPPED = ("bc/", "rllib/")
"""what needs demonstrations of its own, and what RLlib seeds"""


def lab(checkout: Path, *words: str, seconds: float | None = None) -> str:
    """Run a `lab` command of a checkout; one that is still going after `seconds` is stopped as Ctrl-C would."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "WANDB_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "lab.cli", *words]
    with subprocess.Popen(command, cwd=checkout, env=environment, text=True, stdout=-1, stderr=-1) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate()
    if process.returncode not in (0, 130):
        raise RuntimeError(err.strip().splitlines()[-1] if err.strip() else f"exit code {process.returncode}")
    return out


def train(checkout: Path, recipe: str, folder: Path, steps: int, seconds: float, repeat: int = 0) -> Path:
    """The run of a recipe's first steps in a checkout."""
    run = folder / (recipe.replace("/", "-") + (f"-again-{repeat}" if repeat else ""))
    if (run / "metrics.jsonl").is_file():
        return run
    overrides = [f"trainer.budget={steps}", f"trainer.log_period={steps // 40}", "trainer.num_threads=1", "seed=1"]
    if recipe in _DEMONSTRATOR:
        demonstrations = folder / "demonstrations"
        if not demonstrations.exists():
            demonstrator = train(checkout, _DEMONSTRATOR[recipe], folder, steps, seconds)
            lab(checkout, "play", str(demonstrator), "--render", "none", "--record", str(demonstrations))
        overrides.append(f"data.path={demonstrations}")
    if recipe in _NEEDS_RUN:
        overrides.append(f"data.run={train(checkout, _NEEDS_RUN[recipe], folder, steps, seconds)}")
    lab(checkout, "train", recipe, *overrides, "--quiet", "--out", str(run), seconds=seconds)
    return run


def rows_of(run: Path) -> list[dict[str, Any]]:
    """A run's rows of metrics, but for the row with which it was stopped."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    if json.loads((run / "result.json").read_text(encoding="utf-8"))["status"] == "interrupted":
        del rows[-1:]
    return rows


def without_clock(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what follows the clock."""
    return [{key: value for key, value in row.items() if key not in _BY_THE_CLOCK} for row in rows]


def slowdown(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> float:
    """The seconds that AFTER took from the first row that both wrote to the last, over those of BEFORE."""
    last = min(len(before), len(after)) - 1
    if last < 1:
        return math.nan
    times = [float(rows[last]["seconds"] - rows[0]["seconds"]) for rows in (before, after)]
    return times[1] / times[0] if times[0] else math.nan


def distance(a: Any, b: Any) -> float:
    """How far two values are apart, in shares of their size; infinitely, where they are not both numbers."""
    if a == b:
        return 0.0
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) / max(abs(a), abs(b))
    return math.inf


def difference(before: list[dict[str, Any]], after: list[dict[str, Any]], tolerance: float) -> tuple[str, float]:
    """What differs first, or nothing, and the largest difference up to there."""
    largest = 0.0
    if not before or not after:
        return "no rows", largest
    for index, (a, b) in enumerate(zip(before, after, strict=False)):
        if not set(a) <= set(b):
            return f"row {index}: no {sorted(set(a) - set(b))} after", largest
        for key in a:
            apart = distance(a[key], b[key])
            if apart > tolerance:
                return f"row {index}: {key} {a[key]} -> {b[key]}", largest
            largest = max(largest, apart)
    return "", largest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the runs go")
    parser.add_argument("--steps", type=int, default=20_000, help="of each run (default: 20,000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="at most, of each run (default: 60)")
    parser.add_argument("--repeats", type=int, default=1, help="of each recipe, to compare their time (default: 1)")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="between floats (default: 1e-5)")
    arguments = parser.parse_intermixed_args()
    listed = json.loads(lab(arguments.before.resolve(), "list", "recipes", "--json"))["recipes"]
    recipes = arguments.recipes or [name for name in listed if name in _DEMONSTRATOR or not name.startswith(_SKIPPED)]
    num_different = 0
    for recipe in recipes:
        sides: list[list[dict[str, Any]]] = [[], []]
        problem, times = "", []
        for repeat in range(arguments.repeats):
            for index, (name, checkout) in enumerate((("before", arguments.before), ("after", arguments.after))):
                folder = (arguments.out / name).resolve()
                folder.mkdir(parents=True, exist_ok=True)
                try:
                    run = train(checkout.resolve(), recipe, folder, arguments.steps, arguments.seconds, repeat)
                    sides[index] = rows_of(run)
                except (RuntimeError, OSError) as error:
                    problem += f" {name}: {error}"
            if problem:
                break
            times.append(slowdown(*sides))
        first, largest = difference(*map(without_clock, sides), arguments.tolerance)
        first = problem.strip() or first
        num_different += bool(first)
        equal = f"equal to {largest:.1e}" if largest else "equal"
        time = f"{statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f})" if len(times) > 1 else ""
        print(f"{recipe:<40} {min(map(len, sides)):>4} rows  {first or equal}  {time}".rstrip(), flush=True)
    print(f"{len(recipes) - num_different} of {len(recipes)} recipes equal")
    return 1 if num_different else 0


if __name__ == "__main__":
    sys.exit(main())
