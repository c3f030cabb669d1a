"""lab fetch: bring a submitted job's run directories back, W&B offline files included."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

from cluster.jobs.jobs import add_address_argument, client, unpack
from lab.errors import Failure, UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", help="a job (lab jobs)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder (default: ./runs/JOB)")
    add_address_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from lab.runs.directory import runs_root

    out: Path = arguments.out or runs_root() / arguments.job
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{str(out)!r} exists already; give another folder with --out.")
    with client(arguments.address, arguments.insecure) as connection:
        info = connection.get_job_info(arguments.job)
        folder = (info.runtime_env or {}).get("env_vars", {}).get("LAB_RUNS")
        if folder is None:
            raise UserError(f"{arguments.job} was not submitted by the lab.")
        working_dir = {key: value for key, value in info.runtime_env.items() if key == "working_dir"}
        packing = connection.submit_job(
            entrypoint=f"python -m cluster.jobs.jobs {shlex.quote(folder)}", runtime_env=working_dir
        )
        while not connection.get_job_status(packing).is_terminal():
            time.sleep(0.3)
        log = connection.get_job_logs(packing)
        packed = connection.get_job_status(packing).value == "SUCCEEDED"
        connection.delete_job(packing)
    if not packed and "FileNotFoundError" in log:
        raise UserError(f"{arguments.job} has left no runs: there is no {folder} on the cluster.")
    if not packed:
        raise Failure(f"{folder} could not be read on the cluster: {''.join(log.strip().splitlines()[-1:])}")
    unpack(log, out)
    print(f"{out}\nnext: lab compare {out}")
    return 0
