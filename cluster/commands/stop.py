"""lab stop: end a submitted job, saved.

The runs save themselves first and can be resumed.
"""

from __future__ import annotations

import argparse

from cluster.commands.address import add_address_arguments

EXAMPLE = "lab stop lab-20260102-030405-a1b2"
ORDER = 110


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", help="a job (lab jobs)")
    add_address_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from cluster.jobs.client import client, stop

    with client(arguments.address, arguments.insecure) as connection:
        print(f"{arguments.job}: {stop(connection, arguments.job).lower()}")
    return 0
