"""Every private name of Ray that the lab uses, a function each that says why: Ray 2.60 has no public one for the same.

tests/cluster/session/test_ray_private.py says in a sentence when another Ray has taken one of them away.
"""

from __future__ import annotations

import contextlib
import importlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def silence_dead_nodes() -> None:
    """Why: with `log_to_driver=False` Ray still prints the log of a node that has died into the driver's output."""
    worker: Any = importlib.import_module("ray._private.worker")
    worker.print_to_stdstream = lambda *arguments, **options: None


def reread_environment() -> None:
    """Why: Ray reads its settings and the token from the environment only once, when it is first used."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def without_sigterm_handlers() -> Iterator[None]:
    """Ray sets no handler of SIGTERM meanwhile. Why: `ray.init` puts its own in the place of any that is there."""
    utils: Any = importlib.import_module("ray._private.utils")
    set_handler = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = set_handler


def folder_option(folder: Path) -> dict[str, Any]:
    """The option of `ray.init` that puts a cluster's sockets and logs below `folder`. Why: no public one does."""
    return {"_temp_dir": str(folder)}


def own_processes() -> list[subprocess.Popen[bytes]]:
    """The head and the node that `ray.init` has started. Why: no call of Ray returns when one of them has died."""
    worker: Any = importlib.import_module("ray._private.worker")
    processes = worker.global_worker.node.all_processes
    return [info.process for kind in ("gcs_server", "raylet") for info in processes[kind]]


def machine_groups() -> list[tuple[Mapping[str, float], int]]:
    """The kinds of machine that the cluster's autoscaler may start: resources, and how many at most (-1: any number).

    Why: `ray.nodes` knows only the machines that run.
    """
    state: Any = importlib.import_module("ray._private.state")
    config = state.state.get_cluster_config()
    groups = config.node_group_configs if config is not None else ()
    return [(group.resources, group.max_count) for group in groups]


def ask_head(address: str, token: str | None, timeout_seconds: float) -> None:
    """Ask the head at host:port for its id. Raises grpc.RpcError. Why: `ray.init` repeats a refused token for 20 s."""
    import grpc

    services: Any = importlib.import_module("ray.core.generated.gcs_service_pb2_grpc")
    messages: Any = importlib.import_module("ray.core.generated.gcs_service_pb2")
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address) as channel:
        stub = services.NodeInfoGcsServiceStub(channel)
        stub.GetClusterId(messages.GetClusterIdRequest(), timeout=timeout_seconds, metadata=metadata)


def leave_with_head(connection: Any, name: str, content: bytes) -> None:
    """Leave bytes in the memory of the head that a JobSubmissionClient is connected to.

    Why: what a job's description holds, its environment among it, Ray writes into logs and shows to everyone.
    """
    connection._do_request("PUT", f"/api/packages/gcs/{name}.zip", data=content)


def take_from_head(address: str, name: str) -> bytes | None:
    """What `leave_with_head` left with the head at host:port, which forgets it; None where there is nothing.

    Why: a job has no public way to the head's memory before it has begun a session.
    """
    raylet: Any = importlib.import_module("ray._raylet")
    head, key = raylet.GcsClient(address=address), f"gcs://{name}.zip".encode()
    content: bytes | None = head.internal_kv_get(key, None)
    head.internal_kv_del(key, False, None)
    return content
