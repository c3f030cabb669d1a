"""lab jobs: list submitted jobs."""

from __future__ import annotations

import argparse

from cluster.commands.address import add_address_arguments

EXAMPLE = "lab jobs"
ORDER = 90


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_address_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from cluster.jobs.client import client, listed

    with client(arguments.address, arguments.insecure) as connection:
        for line in listed(connection):
            print(line)
    return 0
