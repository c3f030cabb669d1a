"""lab evaluate: measure a trained run.

An agent plays greedy episodes; other models are measured on a split of their data.
"""

from __future__ import annotations

import argparse
import json

from lab.cli import add_checkpoint_argument, add_override_arguments
from lab.errors import UserError

EXAMPLE = "lab evaluate runs/dqn-cartpole-s3-... --episodes 100"
ORDER = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_override_arguments(parser, "a run directory")
    add_checkpoint_argument(parser)
    parser.set_defaults(checkpoint=None)  # of an ensemble it matters whether it is given
    parser.add_argument("--split", choices=("val", "test"), default="test", help="which data (default: test)")
    parser.add_argument("--episodes", type=int, default=100, help="greedy episodes of an agent (default: 100)")
    parser.add_argument("--seed", type=int, default=1234, help="seed of the episodes or the noise (default: 1234)")
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="also the mean of what several runs, or one run's snapshots, predict: lab evaluate RUN RUN ...",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from lab.runs import checkpoint
    from lab.runs.directory import Run
    from lab.training.progress import showing_work
    from lab.training.restore import measure

    if arguments.ensemble:
        return _ensemble(arguments)
    if others := [word for word in arguments.overrides if "=" not in word]:
        raise UserError(f"one run is measured at a time; {others[0]!r} beside it needs --ensemble.")
    run = Run.open(arguments.target)
    with showing_work():
        metrics, table = measure(
            run,
            checkpoint=arguments.checkpoint or "best",
            split=arguments.split,
            episodes=arguments.episodes,
            seed=arguments.seed,
            overrides=arguments.overrides,
        )
    file = run.checkpoint(arguments.checkpoint or "best")
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


def _ensemble(arguments: argparse.Namespace) -> int:
    """Each member's metrics beside those of all together."""
    from lab.comparison.summary import mode_of
    from lab.supervised.ensemble import measure_ensemble
    from lab.training.progress import showing_work

    runs = [arguments.target, *(word for word in arguments.overrides if "=" not in word)]
    overrides = [word for word in arguments.overrides if "=" in word]
    with showing_work():
        ensemble = measure_ensemble(runs, checkpoint=arguments.checkpoint, split=arguments.split, overrides=overrides)
    if arguments.json:
        summary = {"members": ensemble.members, "split": arguments.split, "metrics": ensemble.together}
        print(json.dumps({**summary, "classes": ensemble.table}, indent=2))
        return 0
    width = max(map(len, ensemble.together))
    what = "runs" if len(runs) > 1 else "snapshots"
    print(
        f"{len(ensemble.members)} {what}: the mean of the members, the best of them, and the mean of their predictions"
    )
    for name, together in ensemble.together.items():
        values = [member[name] for member in ensemble.members.values() if name in member]
        if values:
            best = min(values) if mode_of(name, []) == "min" else max(values)
            print(f"  {name:<{width}}  {sum(values) / len(values):>9.5g}  {best:>9.5g}  {together:>9.5g}")
    if ensemble.table:
        print(*_lines(ensemble.table), sep="\n")
    return 0


def _lines(table: dict[str, dict[str, float]]) -> list[str]:
    """Columns of equal width; of many classes, those with the lowest F1 (or R2) first."""
    from lab.training.class_table import shown

    rows, num_left_out, key = shown(table)
    width = max(map(len, rows))
    lines = [f"  {'':<{width}}  " + "  ".join(f"{name:>9}" for name in next(iter(rows.values())))]
    lines += [f"  {name:<{width}}  " + "  ".join(f"{v:>9.4g}" for v in row.values()) for name, row in rows.items()]
    if num_left_out:
        lines.append(f"  and {num_left_out} more with a better {key}; --json gives all")
    return lines
