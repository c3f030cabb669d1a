"""lab board: show runs live in a browser.

It serves the comparison page to this machine only, and keeps nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lab.cli import finite

EXAMPLE = "lab board runs"
ORDER = 150
PORT = 8675


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="FOLDER", help="folders of runs (default: LAB_RUNS or ./runs)")
    parser.add_argument("--port", type=int, default=PORT, help=f"the port on 127.0.0.1 (default: {PORT}; 0: any)")
    parser.add_argument("--metric", metavar="NAME", help="compare by this metric; by default each run's monitored one")
    parser.add_argument("--at", choices=("last", "best"), default="last", help="each run's value (default: last)")
    parser.add_argument("--threshold", type=finite, metavar="X", help="also steps and seconds to reach this value")


def run(arguments: argparse.Namespace) -> int:
    from lab.comparison.page.server import Board, serve
    from lab.errors import UserError
    from lab.runs.directory import runs_root

    folders = [Path(name).expanduser() for name in arguments.runs] or [runs_root()]
    for folder in folders:
        if arguments.runs and not folder.is_dir():
            raise UserError(f"there is no folder {str(folder)!r}.")
    board = Board(folders, metric=arguments.metric, at=arguments.at, threshold=arguments.threshold)
    server = serve(board, arguments.port)
    print(f"http://127.0.0.1:{server.server_port}/ shows {', '.join(map(str, folders))} (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("ended", file=sys.stderr)
    finally:
        server.server_close()
    return 0
