"""lab evaluate: measure a trained run.

An agent plays greedy episodes; other models are measured on a split of their data.
"""

from __future__ import annotations

import argparse
import json

from lab.cli import add_override_arguments

EXAMPLE = "lab evaluate runs/dqn-cartpole-s3-... --episodes 100"
ORDER = 30
_MOST_ROWS = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_override_arguments(parser, "a run directory")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="which weights (default: best)")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="which data (default: test)")
    parser.add_argument("--episodes", type=int, default=100, help="greedy episodes of an agent (default: 100)")
    parser.add_argument("--seed", type=int, default=1234, help="seed of the episodes or the noise (default: 1234)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from lab.runs import checkpoint
    from lab.runs.directory import Run
    from lab.training.progress import showing_work
    from lab.training.restore import measure

    run = Run.open(arguments.target)
    with showing_work():
        metrics, table = measure(
            run,
            checkpoint=arguments.checkpoint,
            split=arguments.split,
            episodes=arguments.episodes,
            seed=arguments.seed,
            overrides=arguments.overrides,
        )
    file = run.checkpoint(arguments.checkpoint)
    content = checkpoint.load(file)
    recipe, counters = content["experiment"]["name"], content["counters"]
    if arguments.json:
        summary = {"run": str(run.path), "recipe": recipe, "checkpoint": file.stem, **counters}
        print(json.dumps({**summary, "split": arguments.split, "metrics": metrics, "classes": table}, indent=2))
        return 0
    counter = run.result()["counter"]
    print(f"{recipe} ({file.stem} checkpoint, {counter}={counters[counter]:,})")
    width = max(map(len, metrics))
    for name, value in metrics.items():
        print(f"  {name:<{width}}  {value:.5g}")
    if table:
        print(*_lines(table), sep="\n")
    return 0


def _lines(table: dict[str, dict[str, float]]) -> list[str]:
    """Columns of equal width; of many classes, those with the lowest F1 (or R2) first."""
    columns = list(next(iter(table.values())))
    key = next(name for name in ("f1", "r2") if name in columns)
    rows = sorted(table.items(), key=lambda row: row[1][key]) if len(table) > _MOST_ROWS else list(table.items())
    width = max(map(len, table))
    lines = [f"  {'':<{width}}  " + "  ".join(f"{name:>9}" for name in columns)]
    lines += [f"  {name:<{width}}  " + "  ".join(f"{v:>9.4g}" for v in row.values()) for name, row in rows[:_MOST_ROWS]]
    if len(rows) > _MOST_ROWS:
        lines.append(f"  and {len(rows) - _MOST_ROWS} more with a better {key}; --json gives all")
    return lines
