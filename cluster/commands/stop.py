"""lab stop: end a submitted job; its runs save themselves first and can be resumed."""

from __future__ import annotations

import argparse
import time

from cluster.jobs.jobs import add_address_argument, client
from cluster.session.head import STOP_SECONDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", help="a job (lab jobs)")
    add_address_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    with client(arguments.address, arguments.insecure) as connection:
        connection.stop_job(arguments.job)
        deadline = time.monotonic() + STOP_SECONDS + 10
        while not connection.get_job_status(arguments.job).is_terminal() and time.monotonic() < deadline:
            time.sleep(0.3)
        print(f"{arguments.job}: {connection.get_job_status(arguments.job).value.lower()}")
    return 0
