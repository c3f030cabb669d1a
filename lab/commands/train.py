"""lab train: train a recipe on this machine."""

from __future__ import annotations

import argparse

from lab.cli import INTERRUPTED, add_override_arguments, path_argument

EXAMPLE = "lab train dqn/cartpole module.gamma=0.97 seed=3"
ORDER = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_override_arguments(
        parser, "a recipe (lab list), package.module:recipe, or an experiment.yaml", completes=["recipes"]
    )
    parser.add_argument(
        "--out", type=path_argument, metavar="DIR", help="the run directory; by default a new one below ./runs"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress display")


def run(arguments: argparse.Namespace) -> int:
    from lab.config.overrides import resolve

    experiment = resolve(arguments.target, arguments.overrides)

    from lab.commands.outcome import report  # this loads torch; a wrong name is answered before
    from lab.training.train import train

    result = train(experiment, run_dir=arguments.out, progress=not arguments.quiet)
    report(result)
    return 0 if result.status == "completed" else INTERRUPTED
