"""lab sweep: many recipes, seeds and values side by side on a Ray cluster, a run directory each.

    lab sweep dqn/cartpole pg/cartpole --seeds 5 module.gamma=0.97,0.99
    lab sweep vae/mnist "module.optimizer.lr=log(1e-5,1e-2)" --search asha --num-samples 40

`lab resume SWEEP` goes on where it was, whoever died.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lab.cli import add_import_argument

if TYPE_CHECKING:
    pass
from cluster.sweep.conduct import check, conduct


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="recipe | field=value",
        help="recipes (lab list), package.module:recipe or experiment.yaml; then overrides: field=a,b tries both, "
        "field=log(1e-5,1e-2), uniform(0,1) or int(1,8) are ranges",
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N-1 of each point (default: 1)")
    parser.add_argument(
        "--search",
        choices=("grid", "random", "asha", "pbt", "optuna"),
        help="grid: every combination; random: draws from the ranges; asha: random, and the worse ones are stopped "
        "early; pbt: random, and the worse ones take over from the better ones as they train; optuna: each point is "
        "chosen from what the earlier ones came to (default: random where there are ranges, else grid)",
    )
    parser.add_argument("--num-samples", type=int, metavar="N", help="draws from the ranges (default: 8)")
    parser.add_argument(
        "--stages", type=int, default=1, metavar="N", help="search again in narrower ranges around the best"
    )
    parser.add_argument(
        "--generations", type=int, default=10, metavar="N", help="pbt: how often a population meets (default: 10)"
    )
    parser.add_argument("--search-seed", type=int, default=0, metavar="N", help="seed of the draws (default: 0)")
    add_resource_arguments(parser)
    parser.add_argument(
        "--retries", type=int, default=2, metavar="N", help="new attempts for a failed run (default: 2)"
    )
    parser.add_argument(
        "--hang-seconds", type=float, default=600, metavar="S", help="end and retry a run silent for so long"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the sweep directory; by default a new one in ./runs")
    parser.add_argument("--name", help="the sweep's name and W&B group (default: the directory's name)")
    parser.add_argument("--quiet", action="store_true", help="no progress display")
    add_import_argument(parser)


def add_resource_arguments(parser: argparse.ArgumentParser) -> None:
    """What a run takes, and of which cluster."""
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


def run(arguments: argparse.Namespace) -> int:
    from cluster.session.session import session
    from cluster.sweep.space import parse
    from cluster.sweep.sweep import Sweep, SweepConfig
    from lab import catalog
    from lab.errors import UserError

    targets = [word for word in arguments.targets if "=" not in word]
    overrides = [word for word in arguments.targets if "=" in word]
    if not targets:
        raise UserError("lab sweep needs a recipe, for example: lab sweep dqn/cartpole --seeds 5.")
    space = parse(overrides)
    _check_numbers(arguments)
    path = arguments.out or _fresh_path(targets)
    settings = SweepConfig(
        name=arguments.name or path.name,
        targets=tuple(targets),
        overrides=tuple(overrides),
        seeds=arguments.seeds,
        search=arguments.search or ("random" if space.ranges else "grid"),
        num_samples=arguments.num_samples or (8 if space.ranges or arguments.search == "optuna" else 1),
        stages=arguments.stages,
        generations=arguments.generations,
        search_seed=arguments.search_seed,
        cpus_per_run=arguments.cpus_per_run,
        gpus_per_run=_gpus(arguments),
        retries=arguments.retries,
        hang_seconds=arguments.hang_seconds,
        imports=catalog.allowed_imports(),
    )
    Sweep.check_free(path)
    experiments = check(Sweep(path, settings, []))
    with session(arguments.address) as cluster:
        from cluster.session.session import Resources
        from cluster.sweep.demand import shares

        need = Resources(settings.cpus_per_run, settings.gpus_per_run)
        slots = cluster.require(need, "each run")
        for experiment in experiments:
            shares(experiment, need, slots, cluster)
        return conduct(cluster, Sweep.create(path, settings), quiet=arguments.quiet)


def _check_numbers(arguments: argparse.Namespace) -> None:
    from lab.errors import UserError

    for option in ("seeds", "num_samples", "stages", "generations", "cpus_per_run", "hang_seconds"):
        value = getattr(arguments, option)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{option.replace('_', '-')} {value} is not valid; it must be above 0.")
    for option in ("retries", "search_seed", "gpus_per_run"):
        value = getattr(arguments, option)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"--{option.replace('_', '-')} {value} is not valid; it must be 0 or more.")
    gpus = arguments.gpus_per_run or 0
    if gpus > 1 and gpus % 1:
        raise UserError(f"--gpus-per-run {gpus} is not valid; a run takes a part of one GPU, or whole ones.")


def _gpus(arguments: argparse.Namespace) -> float:
    if arguments.gpus_per_run is not None:
        return float(arguments.gpus_per_run)
    if arguments.address:
        return 0.0
    import torch

    return 1.0 if torch.cuda.is_available() else 0.0


def _fresh_path(targets: Sequence[str]) -> Path:
    import re

    from lab.runs.directory import runs_root

    stem = re.sub(r"[^A-Za-z0-9.]+", "-", targets[0].removesuffix(".yaml")).strip("-")
    stem += f"-and-{len(targets) - 1}-more" if len(targets) > 1 else ""
    return runs_root() / f"sweep-{stem}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
