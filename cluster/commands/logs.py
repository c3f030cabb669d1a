"""lab logs: follow a submitted job's log."""

from __future__ import annotations

import argparse

from cluster.commands.address import add_address_arguments
from lab.cli import INTERRUPTED

EXAMPLE = "lab logs lab-20260102-030405-a1b2"
ORDER = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", help="a job (lab jobs)")
    parser.add_argument("--no-follow", action="store_true", help="only what there is now")
    add_address_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from cluster.jobs.client import client, follow, log

    with client(arguments.address, arguments.insecure) as connection:
        if arguments.no_follow:
            print(log(connection, arguments.job), end="")
            return 0
        try:
            status = follow(connection, arguments.job)
        except KeyboardInterrupt:
            return INTERRUPTED
    print(f"{arguments.job}: {status.lower()}")
    return 0
