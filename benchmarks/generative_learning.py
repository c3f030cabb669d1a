"""What the generative recipes reach: nats or bits of held-out images, a GAN's distance, against the time of one core.

python benchmarks/generative_learning.py
python benchmarks/generative_learning.py --recipes gan/mnist --seeds 3 --runs runs

Checkpoints are chosen on validation images and measured once on the test images; the bounds of VAEs take 5,000
importance samples. Completed runs of a recipe and seed that lie in `--runs` are measured, wherever they were trained;
only those missing are trained, one at a time on one thread (hours for all). What is measured replaces the recipe's
figures in the results file; those of other recipes stay. Time is that of the processor, so that a busy machine does
not lengthen it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from form import Benchmark, run_json
from learning import Runs, key, measured_before, panels

from lab.config import serialization
from lab.config.overrides import override, resolve
from lab.errors import UserError
from lab.experiment import Experiment
from lab.runs.directory import Run


class Recipe(NamedTuple):
    """How a recipe is measured: the metric (after `eval/`), what it should be at most, and on how many seeds."""

    metric: str
    target: float | None
    seeds: int = 1
    samples: int | None = None
    """importance samples on the test images"""


RECIPES = {
    "pixelcnn/digits": Recipe("nll_nats", None),
    "pixelcnn/binarized-mnist-small": Recipe("nll_nats", 84.0),
    "pixelcnn/cifar10-subset": Recipe("bits_per_dim", None),
    "vae/mnist-dynamic": Recipe("nll_nats", 86.8, samples=5000),
    "vae/mnist-static": Recipe("nll_nats", 88.7, samples=5000),
    "gan/mnist": Recipe("lenet_frechet_ratio", 8.0, seeds=3),
    "gan/fashion-mnist": Recipe("lenet_frechet_ratio", 8.0, seeds=3),
}
QUICK = ("pixelcnn/digits", "vae/mnist-static", "gan/mnist")
QUICK_SHARE, QUICK_SAMPLES = 0.005, 10

_TRAIN = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from lab.config.serialization import load
from lab.runs.directory import Run
from lab.training.train import train
yaml, folder = sys.argv[1], Path(sys.argv[2])
resume = Run.open(folder) if (folder / "result.json").exists() else None
train(load(Path(yaml)), run_dir=None if resume else folder, resume=resume)
print("{}")
"""

_MEASURE = """
import json, sys
import torch
torch.set_num_threads(1)
from lab.runs.directory import Run
from lab.training.restore import restore
from lab.training.evaluation import evaluating
folder, *overrides = sys.argv[1:]
_, data, module, content = restore(Run.open(folder), "best", overrides)
with evaluating(module, 77_777):
    metrics = module.evaluate(data, "test")
print(json.dumps({**content["counters"], **metrics}))
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipes",
        nargs="+",
        metavar="RECIPE",
        choices=RECIPES,
        help="which (default: all; with --quick one a family)",
    )
    parser.add_argument("--seeds", type=int, help="how many (default: 3 of GANs, 1 of others; 1 with --quick)")
    parser.add_argument("--runs", type=Path, default=Path("runs/generative_learning"), help="where runs are kept")


def main() -> None:
    bench = Benchmark("generative_learning", __doc__, options)
    os.nice(10)
    runs: Runs = {} if bench.quick else measured_before(bench.result_path(), RECIPES)
    for recipe in bench.options.recipes or (QUICK if bench.quick else RECIPES):
        seeds = bench.options.seeds or (1 if bench.quick else RECIPES[recipe].seeds)
        runs[recipe] = [one(recipe, seed, bench.options.runs, bench.quick) for seed in range(seeds)]
    draw(runs, bench.result_path("-quick.png" if bench.quick else ".png"))
    figures: dict[str, float | None] = {}
    for recipe, seeds_of in runs.items():
        figures |= figures_of(recipe, seeds_of)
    targets = {figure_name(recipe): how.target for recipe, how in RECIPES.items() if recipe in runs and how.target}
    bench.finish(figures, targets, runs)


def figure_name(recipe: str) -> str:
    """The name of a recipe's main figure."""
    return f"{key(recipe)}_{RECIPES[recipe].metric.removeprefix('nll_')}"


def figures_of(recipe: str, runs: list[dict[str, Any]]) -> dict[str, float | None]:
    """The mean over seeds, its spread where there are several, the worst of ten modes, and what one training takes."""
    name, metric = figure_name(recipe), f"eval/{RECIPES[recipe].metric}"
    values = [run["test"][metric] for run in runs]
    figures: dict[str, float | None] = {name: statistics.mean(values)}
    if len(values) > 1:
        figures |= {f"{name}_std": statistics.pstdev(values), f"{name}_worst": max(values)}
    if recipe.startswith("gan/"):
        figures[f"{key(recipe)}_modes"] = min(run["test"]["eval/lenet_modes"] for run in runs)
    return figures | {f"{key(recipe)}_core_minutes": statistics.median(run["core_seconds"] for run in runs) / 60}


# ------------------------------------------------------------------ runs


def one(recipe: str, seed: int, root: Path, quick: bool) -> dict[str, Any]:
    """One run of a recipe, found or trained, and its measurement, which is kept beside it."""
    experiment = resolve(recipe, [f"seed={seed}", "tracking.mode=disabled", "trainer.num_threads=1"])
    if quick:
        budget = max(1, int(experiment.trainer.budget * QUICK_SHARE))
        experiment = override(experiment, [f"trainer.budget={budget}", f"trainer.eval_period={budget}"])
    run = next(completed(experiment, root), None)
    if run is None:
        folder = root / f"{recipe.replace('/', '-')}-s{seed}{'-quick' if quick else ''}"
        root.mkdir(parents=True, exist_ok=True)
        yaml = folder.with_suffix(".yaml")
        yaml.write_text(serialization.to_yaml(experiment), encoding="utf-8")
        run_json(sys.executable, _TRAIN, yaml, folder, threads=1)
        run = Run.open(folder)
    samples = QUICK_SAMPLES if quick else RECIPES[recipe].samples
    kept = root / f"{run.path.name}.test.json"
    if not kept.exists():
        overrides = [f"module.eval_samples={samples}"] if RECIPES[recipe].samples else []
        kept.write_text(json.dumps(run_json(sys.executable, _MEASURE, run.path, *overrides, threads=1)))
    test = json.loads(kept.read_text(encoding="utf-8"))
    metric = f"eval/{RECIPES[recipe].metric}"
    result = {"seed": seed, "test": test, "curve": curve(run, metric), "core_seconds": core_seconds(run)[-1][1]}
    words = f"{metric} {test[metric]:.4g} on the test images, {result['core_seconds'] / 60:.1f} core-minutes"
    print(f"{recipe} seed {seed}: {words}", file=sys.stderr, flush=True)
    return result


def completed(experiment: Experiment, root: Path) -> Iterator[Run]:
    """The completed runs below `root` of an experiment, whatever followed and drove them."""
    for path in sorted(root.glob("*/result.json")):
        try:
            run = Run.open(path.parent)
            found = run.experiment()
        except UserError:
            continue
        if run.result()["status"] == "completed" and essence(found) == essence(experiment):
            yield run


def essence(experiment: Experiment) -> dict[str, Any]:
    """The part of an experiment that its results depend on."""
    tree = serialization.dump(experiment)
    del tree["tracking"]
    for field in ("num_threads", "log_period", "checkpoint_seconds"):
        del tree["trainer"][field]
    return tree


def core_seconds(run: Run) -> list[tuple[float, float]]:
    """(seconds of training, seconds of processor time) in the course of a run."""
    points, before = [(0.0, 0.0)], 0.0
    for line in run.system_path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        used = points[-1][1] + row["system/cpu_cores"] * (row["seconds"] - before)
        before = row["seconds"]
        points.append((before, used))
    return points


def curve(run: Run, metric: str) -> list[tuple[int, float, float]]:
    """(samples, processor seconds, validation metric) of a run's evaluations."""
    import numpy as np

    seconds, used = zip(*core_seconds(run), strict=True)
    rows = [row for row in run.metrics() if metric in row]
    return [
        (row["samples"], round(float(np.interp(row["seconds"], seconds, used)), 1), round(row[metric], 4))
        for row in rows
    ]


# ------------------------------------------------------------------ curves


def draw(runs: Runs, path: Path) -> None:
    """Validation against core-minutes, a line a seed, the target dotted."""
    for axis, recipe, seeds in panels(runs, path, columns=4):
        for run in seeds:
            _, seconds, values = zip(*run["curve"], strict=True)
            axis.plot([second / 60 for second in seconds], values, ".-", alpha=0.8, linewidth=1.2)
        metric, target = RECIPES[recipe][:2]
        if target is not None:
            axis.axhline(target, color="gray", linestyle=":", linewidth=1)
        axis.set_xlabel("core-minutes of training")
        axis.set_ylabel(f"{metric}, validation")


if __name__ == "__main__":
    main()
