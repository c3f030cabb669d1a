"""lab demo: every family trained side by side on a local cluster, then measured, compared and shown.

A sweep over one recipe of each family that ends in a report instead of a summary: `lab resume` goes on with it alike.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


RECIPES = (  # the longest first, so that the short ones fill the gaps at the end
    "pixelcnn/digits",
    "vae/digits",
    "gan/digits",
    "dqn/cartpole",
    "pg/cartpole",
    "classifier/digits-lstm",
    "classifier/digits-cnn",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="a new folder (default: demo)")
    parser.add_argument("--quiet", action="store_true", help="no progress display")


def run(arguments: argparse.Namespace) -> int:
    from lab.errors import UserError

    out: Path = arguments.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        page = out / "report" / "index.html"
        if page.is_file():
            raise UserError(f"{str(out)!r} holds a demo already: open {page}, or give another folder with --out.")
        if (out / "sweep.yaml").is_file():
            raise UserError(f"{str(out)!r} holds a demo that was interrupted; go on with: lab resume {out}")
        raise UserError(f"{str(out)!r} exists already; give another folder with --out.")

    from cluster.session.session import session
    from cluster.sweep.conduct import conduct
    from cluster.sweep.sweep import Sweep, SweepConfig

    settings = SweepConfig(name=f"demo-{out.resolve().name}", targets=RECIPES, ending="demo")
    with session() as cluster:
        return conduct(cluster, Sweep.create(out, settings), quiet=arguments.quiet)
