"""What learning benchmarks share: several seeds of each recipe, one training at a time on one thread at low priority.

Finished runs are kept below `--runs` and not repeated, so that a benchmark of hours can be ended and started again.
Both the best and the last checkpoint are measured over 100 greedy episodes in environments of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from form import Benchmark, run_json

Runs = dict[str, list[dict[str, Any]]]

_ONE_RUN = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from lab import config
from lab.runs import Run
from lab.train import restore, train
recipe, seed, folder, share, episodes = sys.argv[1:]
experiment = config.resolve(recipe, [f"seed={seed}", "tracking.mode=disabled", "trainer.num_threads=1"])
if float(share) < 1:
    budget = max(1, int(experiment.trainer.budget * float(share)))
    experiment = config.override(experiment, [f"trainer.budget={budget}"])
folder = Path(folder)
resume = Run.open(folder) if (folder / "result.json").exists() else None
rows = train(experiment, run_dir=None if resume else folder, resume=resume).run.metrics()
found = {}
for which in ("best", "last"):
    _, data, module, _ = restore(Run.open(folder), which)
    with torch.no_grad():
        found[which] = module.evaluate(data, "test", episodes=int(episodes), seed=77_777)["eval/return_mean"]
    data.close()
curve = [(row["env_steps"], row["seconds"], row["eval/return_mean"]) for row in rows if "eval/return_mean" in row]
print(json.dumps({**found, "curve": curve, "seconds": rows[-1]["seconds"], "env_steps": rows[-1]["env_steps"]}))
"""


def learning_benchmark(
    name: str, description: str | None, targets: Mapping[str, float], only_when_asked: Sequence[str] = ()
) -> None:
    """Train, measure, draw, and finish in the form of all benchmarks. `targets`: mean return a recipe should reach."""

    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--recipes", nargs="+", metavar="RECIPE", help="which (default: all that take minutes)")
        parser.add_argument("--seeds", type=int, help="how many (default: 5; 1 with --quick)")
        parser.add_argument("--runs", type=Path, default=Path("runs") / name, help="where runs are kept")

    bench = Benchmark(name, description, options)
    recipes = bench.options.recipes or [recipe for recipe in targets if recipe not in only_when_asked]
    os.nice(10)
    figures: dict[str, float | None] = {}
    wanted: dict[str, float] = {}
    runs: Runs = {}
    for recipe in recipes:
        seeds = range(bench.options.seeds or (1 if bench.quick else 5))
        runs[recipe] = [_one(recipe, seed, bench.options.runs, bench.quick) for seed in seeds]
        key = recipe.replace("/", "_").replace("-", "_")
        for which in ("best", "last"):
            values = [run[which] for run in runs[recipe]]
            figures[f"{key}_{which}_return"] = statistics.mean(values)
            figures[f"{key}_{which}_return_std"] = statistics.pstdev(values)
            figures[f"{key}_{which}_return_min"] = min(values)
            if recipe in targets:
                wanted[f"{key}_{which}_return"] = targets[recipe]
        figures[f"{key}_training_seconds"] = statistics.median(run["seconds"] for run in runs[recipe])
    _draw(runs, targets, bench.result_path(".png"))
    bench.finish(figures, wanted, runs)


def _one(recipe: str, seed: int, root: Path, quick: bool) -> dict[str, Any]:
    """One training and its measurement, from earlier ones if it is there; an interrupted one goes on."""
    name = f"{recipe.replace('/', '-')}-{seed}{'-quick' if quick else ''}"
    kept = root / f"{name}.json"
    if not kept.exists():
        root.mkdir(parents=True, exist_ok=True)
        share, episodes = (0.1, 20) if quick else (1, 100)
        result = run_json(sys.executable, _ONE_RUN, recipe, seed, root / name, share, episodes, threads=1)
        kept.write_text(json.dumps(result), encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    words = f"best {found['best']:.1f}, last {found['last']:.1f}, {found['seconds']:.0f} s"
    print(f"{recipe} seed {seed}: {words}", file=sys.stderr, flush=True)
    return found


def _draw(runs: Runs, targets: Mapping[str, float], path: Path) -> None:
    """A panel for each recipe: a line a seed, the last checkpoint's 100 episodes as a dot, the target dotted."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(3, len(runs))
    lines = -(-len(runs) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.4 * columns, 3.1 * lines), squeeze=False, layout="constrained"
    )
    for axis, (recipe, seeds) in zip(axes.flat, runs.items(), strict=False):
        for run in seeds:
            steps, _, returns = zip(*run["curve"], strict=True)
            (line,) = axis.plot([step / 1000 for step in steps], returns, alpha=0.7, linewidth=1.2)
            axis.plot(steps[-1] / 1000, run["last"], "o", markersize=4, color=line.get_color())
        if recipe in targets:
            axis.axhline(targets[recipe], color="gray", linestyle=":", linewidth=1)
        axis.set_title(recipe, fontsize=10)
        axis.set_xlabel("thousand environment steps")
        axis.set_ylabel("greedy return")
    for axis in list(axes.flat)[len(runs) :]:
        axis.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"written: {path}", file=sys.stderr)
