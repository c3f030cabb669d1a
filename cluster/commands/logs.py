"""lab logs: a submitted job's log, followed until the job ends."""

from __future__ import annotations

import argparse

from cluster.jobs.jobs import add_address_argument, client, follow, masked
from lab.cli import INTERRUPTED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", help="a job (lab jobs)")
    parser.add_argument("--no-follow", action="store_true", help="only what there is now")
    add_address_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    with client(arguments.address, arguments.insecure) as connection:
        if arguments.no_follow:
            print(masked(connection.get_job_logs(arguments.job)), end="")
            return 0
        try:
            status = follow(connection, arguments.job)
        except KeyboardInterrupt:
            return INTERRUPTED
    print(f"{arguments.job}: {status.lower()}")
    return 0
