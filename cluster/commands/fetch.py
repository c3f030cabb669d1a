"""lab fetch: bring a submitted job's runs back.

The offline files of W&B come too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cluster.commands.address import add_address_arguments
from lab.cli import path_argument
from lab.errors import UserError

EXAMPLE = "lab fetch lab-20260102-030405-a1b2"
ORDER = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", help="a job (lab jobs)")
    parser.add_argument("--out", type=path_argument, metavar="DIR", help="a new folder (default: ./runs/JOB)")
    add_address_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from cluster.jobs.client import client
    from cluster.jobs.submission import fetch
    from lab.runs.directory import runs_root

    out: Path = arguments.out or runs_root() / arguments.job
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{str(out)!r} exists already; give another folder with --out.")
    with client(arguments.address, arguments.insecure) as connection:
        fetch(connection, arguments.job, out)
    print(f"{out}\nnext: lab compare {out}")
    return 0
