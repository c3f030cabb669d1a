"""What a person should know of the cluster that runs on this machine."""

from __future__ import annotations

from cluster.session import head
from cluster.session.session import session
from lab.errors import UserError


def describe() -> str:
    """Machines, addresses and what to type next, in lines. Raises UserError when nothing that was started here runs."""
    local = head.find()
    if local is None:
        raise UserError("no cluster that was started here is running; lab cluster start begins one.")
    with session(local.address) as cluster:
        nodes = cluster.nodes()
    machines = f"{len(nodes)} machine{'s' if len(nodes) > 1 else ''}: {', '.join(map(str, nodes))}"
    lines = [f"cluster {local.address}: {machines}"]
    if local.dashboard is not None:
        lines += [
            f"dashboard {local.dashboard}, on this machine only; token in {head.folder() / 'token'}",
            f"another machine joins with: lab cluster start --join {local.address}",
            f"next: lab submit train dqn/cartpole, or lab sweep dqn/cartpole --seeds 5 --address {local.address}",
        ]
    return "\n".join(lines)
