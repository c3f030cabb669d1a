"""lab submit: ship a lab command to a cluster as a job.

lab cluster start
lab submit sweep dqn/cartpole --seeds 5
lab submit --address http://gpu-head:8265 --gpus 1 train vae/mnist
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cluster.commands.address import add_address_arguments
from lab.cli import INTERRUPTED, finite, parse

EXAMPLE = "lab submit sweep dqn/cartpole --seeds 5"
ORDER = 80
_RUNS = "~/lab-runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from cluster.jobs.submission import COMMANDS

    add_address_arguments(parser)
    parser.add_argument("--cpus", type=finite, default=0, metavar="X", help="CPUs of the command itself (default: 0)")
    parser.add_argument("--gpus", type=finite, default=0, metavar="X", help="GPUs of the command itself (default: 0)")
    parser.add_argument(
        "--storage",
        default=_RUNS,
        metavar="DIR",
        help=f"where runs go on the cluster, shared by its machines ({_RUNS})",
    )
    parser.add_argument("--detach", action="store_true", help="do not follow the log")
    parser.add_argument("command", nargs=argparse.REMAINDER, help=f"one of: {', '.join(COMMANDS)}, with its arguments")


def run(arguments: argparse.Namespace) -> int:
    from cluster.jobs.client import client, follow
    from cluster.jobs.submission import check, submit

    resources = {"cpus": arguments.cpus, "gpus": arguments.gpus}
    check(arguments.command, **resources)
    _check_target(arguments.command)
    with client(arguments.address, arguments.insecure) as connection:
        job, left = submit(connection, arguments.command, storage=arguments.storage, **resources)
        if left:
            print(f"stays here, for git does not track it: {left} (git add ships it)", file=sys.stderr)
        print(f"job {job}; its log: lab logs {job}, its runs when it has ended: lab fetch {job}", flush=True)
        if arguments.detach:
            return 0
        try:
            status = follow(connection, job)
        except KeyboardInterrupt:
            print(f"\ndetached; the job goes on. lab logs {job} follows it, lab stop {job} ends it")
            return INTERRUPTED
    return 0 if status == "SUCCEEDED" else 1


def _check_target(command: Sequence[str]) -> None:
    """Raise UserError, before anything is shipped, for arguments, recipes and fields that the command will not take."""
    _, parsed = parse(command[0], command)
    if command[0] == "train":
        from lab.config.overrides import resolve

        resolve(parsed.target, parsed.overrides)
    elif command[0] == "sweep":
        from cluster.commands.sweep import planned
        from cluster.sweep.start import plan

        plan(parsed.targets, **planned(parsed) | {"out": None})
