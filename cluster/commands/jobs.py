"""lab jobs: what was submitted to a cluster."""

from __future__ import annotations

import argparse

from cluster.commands.address import add_address_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_address_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from cluster.jobs.client import client, listed

    with client(arguments.address, arguments.insecure) as connection:
        for line in listed(connection):
            print(line)
    return 0
