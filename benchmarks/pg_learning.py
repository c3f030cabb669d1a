"""What the policy gradients learn: several seeds of each recipe, then 100 greedy (or mean) episodes of each.

    python benchmarks/pg_learning.py                         every recipe that this machine trains in minutes, 5 seeds
    python benchmarks/pg_learning.py --recipes ppo/pendulum --seeds 3

One training at a time, on one thread, at low priority. Finished runs are kept below --runs and not repeated. Figures
are means over seeds of the best checkpoint's mean return; `_min` is the worst seed, `_last` the weights at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from form import Benchmark, run_json

TARGETS = {
    "pg/cartpole": 490,
    "pg/a2c-cartpole": 490,
    "ppo/cartpole": 490,
    "ppo/acrobot": -80,
    "ppo/pendulum": -170,
    "ppo/cartpole-positions": 490,
    "ppo/mountaincar": -110,
    "ppo/lunarlander": 245,
    "ppo/bipedalwalker": 280,
}
_SLOW = ("ppo/bipedalwalker",)  # hours: only when asked for

_ONE_RUN = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from lab import config
from lab.runs import Run
from lab.train import restore, train
recipe, seed, folder, budget, episodes = sys.argv[1:]
overrides = [f"seed={seed}", "tracking.mode=disabled", "trainer.num_threads=1"]
experiment = config.resolve(recipe, overrides)
if float(budget) < 1:
    experiment = config.override(experiment, [f"trainer.budget={int(experiment.trainer.budget * float(budget))}"])
result = train(experiment, run_dir=Path(folder))
rows = [json.loads(line) for line in result.run.metrics_path.read_text().splitlines()]
curve = [(row["env_steps"], row["seconds"], row["eval/return_mean"]) for row in rows if "eval/return_mean" in row]
found = {}
for which in ("best", "last"):
    _, data, module, _ = restore(Run.open(folder), which)
    with torch.no_grad():
        found[which] = module.evaluate(data, episodes=int(episodes), seed=77_777)["eval/return_mean"]
    data.close()
print(json.dumps({**found, "curve": curve, "seconds": rows[-1]["seconds"], "env_steps": rows[-1]["env_steps"]}))
"""


def main() -> None:
    bench = Benchmark("pg_learning", __doc__, _options)
    options = bench.options
    recipes = options.recipes or [recipe for recipe in TARGETS if recipe not in _SLOW]
    seeds = options.seeds or (1 if bench.quick else 5)
    os.nice(10)
    figures: dict[str, float | None] = {}
    details: dict[str, Any] = {}
    for recipe in recipes:
        runs = [one(recipe, seed, options.runs, bench.quick) for seed in range(seeds)]
        key = recipe.replace("/", "_").replace("-", "_")
        figures[f"{key}_return"] = statistics.mean(run["best"] for run in runs)
        figures[f"{key}_return_min"] = min(run["best"] for run in runs)
        figures[f"{key}_return_last"] = statistics.mean(run["last"] for run in runs)
        figures[f"{key}_training_seconds"] = statistics.median(run["seconds"] for run in runs)
        details[recipe] = runs
    draw(details, bench.result_path(".png"))
    targets = {f"{r.replace('/', '_').replace('-', '_')}_return": float(TARGETS[r]) for r in recipes if r in TARGETS}
    bench.finish(figures, targets, details)


def one(recipe: str, seed: int, root: Path, quick: bool) -> dict[str, Any]:
    """One training with its evaluation, from the folder of earlier ones if it is there."""
    name = f"{recipe.replace('/', '-')}-{seed}{'-quick' if quick else ''}"
    kept = root / f"{name}.json"
    if not kept.exists():
        root.mkdir(parents=True, exist_ok=True)
        folder = root / name
        if folder.exists():  # an attempt that was ended
            folder.rename(root / f"{name}-ended-{len(list(root.glob(name + '-ended-*')))}")
        result = run_json(
            sys.executable, _ONE_RUN, recipe, seed, folder, 0.1 if quick else 1, 20 if quick else 100, threads=1
        )
        kept.write_text(json.dumps(result), encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    print(
        f"{recipe} seed {seed}: best {found['best']:.1f}, last {found['last']:.1f}, {found['seconds']:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return found


def draw(details: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Learning curves, a panel a recipe, a line a seed, with the target."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(3, len(details))
    rows = -(-len(details) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3 * rows), squeeze=False, layout="constrained")
    for axis, (recipe, runs) in zip(axes.flat, details.items(), strict=False):
        for run in runs:
            steps, _, returns = zip(*run["curve"], strict=True)
            axis.plot([step / 1000 for step in steps], returns, color="tab:blue", alpha=0.6, linewidth=1.2)
        if recipe in TARGETS:
            axis.axhline(TARGETS[recipe], color="gray", linestyle=":", linewidth=1)
        axis.set_title(f"{recipe}: {statistics.mean(run['best'] for run in runs):.0f}", fontsize=10)
        axis.set_xlabel("thousand environment steps")
        axis.set_ylabel("greedy return")
    for axis in list(axes.flat)[len(details) :]:
        axis.axis("off")
    figure.savefig(path, dpi=110)
    print(f"written: {path}", file=sys.stderr)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipes", nargs="+", metavar="RECIPE", help="which (default: all but those that take hours)")
    parser.add_argument("--seeds", type=int, help="how many (default: 5; 1 with --quick)")
    parser.add_argument("--runs", type=Path, default=Path("runs/pg_learning"), help="where runs are kept")


if __name__ == "__main__":
    main()
