"""What learning benchmarks share: seeds of each recipe, one training at a time on one thread at low priority.

Finished runs are kept below `--runs` and not repeated while the recipe is the same, and an interrupted one goes on,
so that a benchmark of hours can be ended and started again. What is measured replaces the recipe's figures in the
results file; those of other recipes stay. For each recipe, over its seeds:

    best   the checkpoint that the run's own evaluations chose, over 100 greedy episodes that it was not chosen on
    last   the weights at the end, over the same episodes
    late   the run's own evaluations (20 greedy episodes each) in the last quarter of its budget: what is sustained
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from form import Benchmark, run_json

from lab.config import serialization
from lab.config.overrides import override, resolve

Runs = dict[str, list[dict[str, Any]]]

_QUICK_SHARE, _QUICK_EPISODES = 0.1, 20

_ONE_RUN = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from lab.config.overrides import resolve
from lab.runs.directory import Run
from lab.training.restore import restore
from lab.training.train import train
yaml, folder, episodes = sys.argv[1:]
experiment, folder = resolve(yaml, []), Path(folder)
resume = Run.open(folder) if (folder / "result.json").exists() else None
rows = train(experiment, run_dir=None if resume else folder, resume=resume).run.metrics()
found = {}
for which in ("best", "last"):
    _, data, module, _ = restore(Run.open(folder), which)
    with torch.no_grad():
        found[which] = module.evaluate(data, "test", episodes=int(episodes), seed=77_777)["eval/return_mean"]
    data.close()
evaluations = [row for row in rows if "eval/return_mean" in row]
late = [row["eval/return_mean"] for row in evaluations if row["env_steps"] >= 0.75 * experiment.trainer.budget]
curve = [(row["env_steps"], round(row["seconds"], 1), round(row["eval/return_mean"], 3)) for row in evaluations]
print(json.dumps({**found, "late": sum(late) / len(late), "curve": curve, "seconds": rows[-1]["seconds"],
    "env_steps": rows[-1]["env_steps"]}))
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
    seeds = range(bench.options.seeds or (1 if bench.quick else 5))
    os.nice(10)
    new = {recipe: [_one(recipe, seed, bench.options.runs, bench.quick) for seed in seeds] for recipe in recipes}
    runs: Runs = new if bench.quick else {**measured_before(bench.result_path(), targets), **new}
    _draw(runs, targets, bench.result_path("-quick.png" if bench.quick else ".png"))
    bench.finish(
        {f"{key(recipe)}_{name}": value for recipe in runs for name, value in _figures(runs[recipe]).items()},
        {f"{key(recipe)}_{which}": targets[recipe] for recipe in runs if recipe in targets for which in _WHICH},
        runs,
    )


def measured_before(results: Path, recipes: Iterable[str]) -> Runs:
    """The runs in a results file of a full benchmark, those of `recipes` in their order."""
    result = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {"quick": True}
    return (
        {}
        if result["quick"]
        else {recipe: result["details"][recipe] for recipe in recipes if recipe in result["details"]}
    )


_WHICH = ("best", "last", "late")


def _figures(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Means over seeds with their spread, the worst seed's last weights, and what one run takes."""
    values = {which: [run[which] for run in runs] for which in _WHICH}
    return {
        "best": statistics.mean(values["best"]),
        "best_std": statistics.pstdev(values["best"]),
        "last": statistics.mean(values["last"]),
        "last_std": statistics.pstdev(values["last"]),
        "last_min": min(values["last"]),
        "late": statistics.mean(values["late"]),
        "training_seconds": statistics.median(run["seconds"] for run in runs),
        "seeds": len(runs),
    }


def _one(recipe: str, seed: int, root: Path, quick: bool) -> dict[str, Any]:
    """One training and its measurement, from an earlier one of the same experiment if it is there."""
    experiment = resolve(recipe, [f"seed={seed}", "tracking.mode=disabled", "trainer.num_threads=1"])
    if quick:
        budget = max(1, int(experiment.trainer.budget * _QUICK_SHARE))
        experiment = override(experiment, [f"trainer.budget={budget}"])
    yaml = serialization.to_yaml(experiment)
    name = f"{key(recipe)}-{seed}-{hashlib.sha256(yaml.encode()).hexdigest()[:8]}"
    kept = root / f"{name}.json"
    if not kept.exists():
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.yaml").write_text(yaml, encoding="utf-8")
        episodes = _QUICK_EPISODES if quick else 100
        result = run_json(sys.executable, _ONE_RUN, root / f"{name}.yaml", root / name, episodes, threads=1)
        kept.write_text(json.dumps(result), encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    words = ", ".join(f"{which} {found[which]:.2f}" for which in _WHICH)
    print(f"{recipe} seed {seed}: {words}, {found['seconds']:.0f} s", file=sys.stderr, flush=True)
    return found


def key(recipe: str) -> str:
    """A recipe's name as a part of a figure's."""
    return recipe.replace("/", "_").replace("-", "_")


def _draw(runs: Runs, targets: Mapping[str, float], path: Path) -> None:
    """A line a seed, the last checkpoint's 100 episodes as a dot, the target dotted."""
    for axis, recipe, seeds in panels(runs, path, columns=3):
        for run in seeds:
            steps, _, returns = zip(*run["curve"], strict=True)
            (line,) = axis.plot([step / 1000 for step in steps], returns, alpha=0.7, linewidth=1.2)
            axis.plot(steps[-1] / 1000, run["last"], "o", markersize=4, color=line.get_color())
        if recipe in targets:
            axis.axhline(targets[recipe], color="gray", linestyle=":", linewidth=1)
        axis.set_xlabel("thousand environment steps")
        axis.set_ylabel("greedy return")


def panels(runs: Runs, path: Path, columns: int) -> Iterator[tuple[Any, str, list[dict[str, Any]]]]:
    """For each recipe an axis, its name and its seeds, to draw on; saves the picture when all are drawn."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(columns, len(runs))
    lines = -(-len(runs) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.4 * columns, 3.1 * lines), squeeze=False, layout="constrained"
    )
    for axis, (recipe, seeds) in zip(axes.flat, runs.items(), strict=False):
        axis.set_title(f"{recipe}, {len(seeds)} seeds" if len(seeds) > 1 else recipe, fontsize=10)
        yield axis, recipe, seeds
    for axis in list(axes.flat)[len(runs) :]:
        axis.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"written: {path}", file=sys.stderr)
