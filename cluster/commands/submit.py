"""lab submit: ship a lab command, with the code, to a cluster as a Ray job.

lab cluster start
lab submit sweep dqn/cartpole --seeds 5
lab submit --address http://gpu-head:8265 --gpus 1 train vae/mnist
"""

from __future__ import annotations

import argparse
import math
import secrets
import shlex
from datetime import datetime
from pathlib import Path

from cluster.jobs.jobs import add_address_argument
from lab.cli import COMMANDS, INTERRUPTED
from lab.errors import UserError, unknown

RUNS = "~/lab-runs"
_ALLOWED = ("train", "sweep", "resume", "evaluate", "demo", "compare", "sample")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_address_argument(parser)
    parser.add_argument("--cpus", type=float, default=0, metavar="X", help="CPUs of the command itself (default: 0)")
    parser.add_argument("--gpus", type=float, default=0, metavar="X", help="GPUs of the command itself (default: 0)")
    parser.add_argument(
        "--storage", default=RUNS, metavar="DIR", help=f"where runs go on the cluster, shared by its machines ({RUNS})"
    )
    parser.add_argument("--detach", action="store_true", help="do not follow the log")
    parser.add_argument("command", nargs=argparse.REMAINDER, help=f"one of: {', '.join(_ALLOWED)}, with its arguments")


def run(arguments: argparse.Namespace) -> int:
    from cluster.jobs.jobs import client, environment, follow, submit_when_ready
    from cluster.jobs.staging import staged

    command = arguments.command
    if not command:
        raise UserError("lab submit needs a command, for example: lab submit train dqn/cartpole.")
    if command[0] not in _ALLOWED or command[0] not in COMMANDS:
        raise unknown("command to submit", command[0], _ALLOWED)
    for option in ("cpus", "gpus"):
        if not 0 <= getattr(arguments, option) < math.inf:
            raise UserError(f"--{option} {getattr(arguments, option)} is not valid; it must be 0 or more.")
    job = f"lab-{datetime.now().strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    with client(arguments.address, arguments.insecure) as connection, staged(Path.cwd()) as folder:
        submit_when_ready(
            connection,
            entrypoint=f"python -m lab.cli {shlex.join(command)}",
            submission_id=job,
            runtime_env={
                "working_dir": str(folder),
                "env_vars": environment(f"{arguments.storage.rstrip('/')}/{job}"),
            },
            entrypoint_num_cpus=arguments.cpus or None,
            entrypoint_num_gpus=arguments.gpus or None,
        )
        print(f"job {job}; its log: lab logs {job}, its runs when it has ended: lab fetch {job}", flush=True)
        if arguments.detach:
            return 0
        try:
            status = follow(connection, job)
        except KeyboardInterrupt:
            print(f"\ndetached; the job goes on. lab logs {job} follows it, lab stop {job} ends it")
            return INTERRUPTED
    return 0 if status == "SUCCEEDED" else 1
