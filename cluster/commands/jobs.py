"""lab jobs: what was submitted to a cluster."""

from __future__ import annotations

import argparse
from datetime import datetime

from cluster.jobs.jobs import add_address_argument, client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_address_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    with client(arguments.address, arguments.insecure) as connection:
        jobs = sorted(connection.list_jobs(), key=lambda job: job.start_time or 0)
    for job in jobs:
        if job.submission_id and job.submission_id.startswith("lab-"):
            began = datetime.fromtimestamp((job.start_time or 0) / 1000).strftime("%Y-%m-%d %H:%M")
            print(f"{job.submission_id}  {job.status.value:<9}  {began}  {job.entrypoint.partition('lab.cli ')[2]}")
    return 0
