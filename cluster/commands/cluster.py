"""lab cluster: start, join, look at and stop a Ray cluster of one's own."""

from __future__ import annotations

import argparse

from cluster.session import head
from lab.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("start", "status", "stop"), help="stop ends only what start began here")
    parser.add_argument("--join", metavar="HOST:PORT", help="start: join the head there instead of being one")
    parser.add_argument("--cpus", type=int, metavar="N", help="start: CPUs to offer (default: all)")
    parser.add_argument("--port", type=int, default=6379, help="start: the head's port (default: 6379)")
    parser.add_argument("--dashboard-port", type=int, default=8265, help="start: the dashboard's port (default: 8265)")


def run(arguments: argparse.Namespace) -> int:
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
    found = head.find()
    if found is None:
        raise UserError("no cluster that was started here is running; lab cluster start begins one.")
    _describe(found)
    return 0


def _describe(found: head.Head) -> None:
    from cluster.session.session import session

    head.use_token()
    with session(found.address) as cluster:
        nodes = cluster.nodes()
    print(f"cluster {found.address}: {len(nodes)} machine{'s' if len(nodes) > 1 else ''}: {', '.join(map(str, nodes))}")
    if found.dashboard is not None:
        print(f"dashboard {found.dashboard}, on this machine only; token in {head.folder() / 'token'}")
        print(f"another machine joins with: lab cluster start --join {found.address}")
        print(f"next: lab submit train dqn/cartpole, or lab sweep dqn/cartpole --seeds 5 --address {found.address}")
