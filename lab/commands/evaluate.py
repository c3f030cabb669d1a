"""lab evaluate: measure a trained run on its test split, or over greedy episodes."""

from __future__ import annotations

import argparse
import json

from lab.cli import add_override_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_override_arguments(parser, "a run directory")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="which weights (default: best)")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="which data (default: test)")
    parser.add_argument("--episodes", type=int, default=100, help="greedy episodes of an agent (default: 100)")
    parser.add_argument("--seed", type=int, default=1234, help="seed of the episodes or the noise (default: 1234)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from lab.errors import UserError
    from lab.runs.directory import Run

    if arguments.episodes < 1:
        raise UserError(f"--episodes {arguments.episodes} is not a number of episodes; give 1 or more.")
    found = Run.open(arguments.target)

    from lab.training.evaluation import evaluating
    from lab.training.train import restore

    experiment, data, module, content = restore(found, arguments.checkpoint, arguments.overrides)
    try:
        with evaluating(module, arguments.seed):
            metrics = module.evaluate(data, arguments.split, episodes=arguments.episodes, seed=arguments.seed)
    finally:
        data.close()
    summary = {"run": str(found.path), "recipe": experiment.name, "checkpoint": arguments.checkpoint}
    if arguments.json:
        print(json.dumps({**summary, **content["counters"], "split": arguments.split, "metrics": metrics}, indent=2))
        return 0
    count = content["counters"][module.counter]
    print(f"{experiment.name} ({arguments.checkpoint} checkpoint, {module.counter}={count:,})")
    width = max(map(len, metrics))
    for name, value in metrics.items():
        print(f"  {name:<{width}}  {value:.5g}")
    return 0
