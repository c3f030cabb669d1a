"""lab sweep: train many recipes, seeds and values on a Ray cluster.

    lab sweep dqn/cartpole pg/cartpole --seeds 5 module.gamma=0.97,0.99
    lab sweep vae/mnist "module.optimizer.lr=log(1e-5,1e-2)" --search asha --num-samples 40

`lab resume SWEEP` goes on where it was, whoever died.
"""

from __future__ import annotations

import argparse
from typing import Any

from lab.cli import add_import_argument, completed, finite, path_argument

_SETTINGS = (
    "seeds",
    "search",
    "num_samples",
    "stages",
    "generations",
    "search_seed",
    "cpus_per_run",
    "gpus_per_run",
    "retries",
    "hang_seconds",
)
"""the options that are fields of SweepConfig"""

EXAMPLE = "lab sweep dqn/cartpole --seeds 5 module.gamma=0.97,0.99"
ORDER = 70


def add_arguments(parser: argparse.ArgumentParser) -> None:
    targets = parser.add_argument(
        "targets",
        nargs="*",
        metavar="recipe | field=value",
        help="recipes (lab list), package.module:recipe or experiment.yaml; then overrides: field=a,b tries both, "
        "field=log(1e-5,1e-2), uniform(0,1) or int(1,8) are ranges",
    )
    completed(targets, "recipes")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N-1 of each point (default: 1)")
    parser.add_argument(
        "--search",
        choices=("grid", "random", "asha", "pbt", "optuna"),
        help="grid: every combination; random: draws from the ranges; asha: random, and the worse ones are stopped "
        "early; pbt: random, and the worse ones take over from the better ones as they train; optuna: each point is "
        "chosen from the results of the earlier ones (default: random where there are ranges, else grid)",
    )
    parser.add_argument("--num-samples", type=int, metavar="N", help="draws from the ranges (default: 8)")
    parser.add_argument(
        "--stages", type=int, default=1, metavar="N", help="search again in narrower ranges around the best"
    )
    parser.add_argument(
        "--generations", type=int, default=10, metavar="N", help="pbt: how often a population meets (default: 10)"
    )
    parser.add_argument("--search-seed", type=int, default=0, metavar="N", help="seed of the draws (default: 0)")
    parser.add_argument("--cpus-per-run", type=float, default=1, metavar="X", help="CPUs of a run (default: 1)")
    parser.add_argument(
        "--gpus-per-run",
        type=float,
        metavar="X",
        help="GPUs of a run; 0.25 lets four share one, each with a quarter of its memory (default: 1 if there are any)",
    )
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="a running Ray cluster; by default a private one on this machine"
    )
    parser.add_argument(
        "--retries", type=int, default=2, metavar="N", help="new attempts for a failed run (default: 2)"
    )
    parser.add_argument(
        "--hang-seconds", type=finite, default=600, metavar="S", help="end and retry a run silent for so long"
    )
    parser.add_argument(
        "--out", type=path_argument, metavar="DIR", help="the sweep directory; by default a new one in ./runs"
    )
    parser.add_argument("--name", help="the sweep's name and W&B group (default: the directory's name)")
    parser.add_argument("--quiet", action="store_true", help="no progress display")
    add_import_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from cluster.sweep.conduct import report
    from cluster.sweep.start import start

    sweep, finished = start(arguments.targets, address=arguments.address, quiet=arguments.quiet, **planned(arguments))
    return report(sweep, finished)


def planned(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the options say of the sweep itself, as `cluster.sweep.start.plan` takes it."""
    return {field: getattr(arguments, field) for field in ("out", "name", *_SETTINGS)}
