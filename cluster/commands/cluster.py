"""lab cluster: start, join, show or stop a Ray cluster of your own."""

from __future__ import annotations

import argparse

EXAMPLE = "lab cluster start"
ORDER = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("start", "status", "stop"), help="stop ends only what start began here")
    parser.add_argument("--join", metavar="HOST:PORT", help="start: join the head there instead of being one")
    parser.add_argument("--cpus", type=int, metavar="N", help="start: CPUs to offer (default: all)")
    parser.add_argument("--port", type=int, default=6379, help="start: the head's port (default: 6379)")
    parser.add_argument("--dashboard-port", type=int, default=8265, help="start: the dashboard's port (default: 8265)")


def run(arguments: argparse.Namespace) -> int:
    from cluster.session import head, status

    if arguments.action == "stop":
        head.stop()
        print("stopped")
        return 0
    if arguments.action == "start":
        head.start(
            join=arguments.join,
            num_cpus=arguments.cpus,
            port=arguments.port,
            dashboard_port=arguments.dashboard_port,
        )
    print(status.describe())
    return 0
