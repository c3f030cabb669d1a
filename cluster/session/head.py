"""The cluster that `lab cluster start` keeps running on this machine: its processes, its token, its addresses.

Everything about it lies in one folder of the user's, which nobody else may read:

    token         the cluster's token
    cluster.json  the addresses, and the process that keeps the cluster
    log.txt       the output of that process
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from cluster.session import tokens
from cluster.session.connection import listens, probe
from cluster.session.processes import session_members, start_time
from cluster.session.tokens import cluster_folder as folder
from lab.errors import Failure, UserError
from lab.runs.files import write_atomic

JOB_MODULE = "cluster.jobs.entrypoint"
"""what a submitted job runs, with the words of its command"""
STOP_SECONDS = 60
"""how long a stopped job may take to save its runs"""
RAY_FOLDER = "r"
"""Ray's part of a cluster's temporary folder: Ray lets everyone write to its own, so that one lies in a private one"""
_START_SECONDS = 180.0


class ClusterHead(NamedTuple):
    """A running head, or a node that joined one."""

    pid: int
    started: float
    address: str
    dashboard: str | None
    temporary: str
    """the folder of its sockets and logs, which nobody else may enter"""

    def alive(self) -> bool:
        """Whether the process that keeps it still runs (and is the same one)."""
        return start_time(self.pid) == self.started


def find() -> ClusterHead | None:
    """The cluster that was started here, if it runs."""
    head = _last()
    return head if head is not None and head.alive() else None


def _last() -> ClusterHead | None:
    """The cluster that was started here last."""
    try:
        return ClusterHead(**json.loads((folder() / "cluster.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def start(
    *, join: str | None = None, num_cpus: int | None = None, port: int = 6379, dashboard_port: int = 8265
) -> ClusterHead:
    """Start a head on this machine, or let it join the head at `join`.

    Raises UserError when one runs already or a port is taken, Failure when it does not come up.
    """
    if num_cpus is not None and num_cpus < 1:
        raise UserError(f"--cpus {num_cpus} is not valid; it must be above 0.")
    if find() is not None:
        raise UserError("a cluster that was started here is running already; lab cluster status shows it.")
    if join:
        probe(join, "--join")
    else:
        _check_free("--port", port)
        _check_free("--dashboard-port", dashboard_port)
    previous = _last()
    if previous is not None:
        shutil.rmtree(previous.temporary, ignore_errors=True)
    _make_token(join)
    tokens.show(None if tokens.in_environment() else folder() / "token")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += ["--min-worker-port=0", "--max-worker-port=0"]  # any free port
    command.append(f"--dashboard-agent-listen-port={_free_port()}")  # without it two clusters on a machine collide
    temporary = tempfile.mkdtemp(prefix="lab-ray-head-")
    command.append(f"--temp-dir={temporary}/{RAY_FOLDER}")
    if join:
        command += ["--address", join]
    else:
        command += ["--head", f"--port={port}", "--include-dashboard=true", "--dashboard-host=127.0.0.1"]
        command.append(f"--dashboard-port={dashboard_port}")
    if num_cpus is not None:
        command.append(f"--num-cpus={num_cpus}")
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),  # python is this one
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
        "RAY_enable_metrics_collection": "0",
    }
    log = folder() / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
        )
    address, dashboard = join or _own_address(port), None if join else f"http://127.0.0.1:{dashboard_port}"
    started = start_time(process.pid)
    assert started is not None
    head = ClusterHead(process.pid, started, address, dashboard, temporary)
    write_atomic(folder() / "cluster.json", json.dumps(head._asdict()))
    _wait_until_up(process, log, head)
    return head


def _check_free(option: str, port: int) -> None:
    """Raise UserError unless a head can listen there; where another one does, Ray would take that for its own."""
    if not 0 < port < 2**16:
        raise UserError(f"{option} {port} is not valid; it must be one of 1 to 65535.")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose last head has just ended
        try:
            listener.bind(("", port))
        except OSError:
            raise UserError(f"{option} {port} is taken on this machine; give another one.") from None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def stop() -> None:
    """End what `start` began on this machine, and nothing else: jobs first, whose runs save themselves.

    Raises UserError when nothing runs.
    """
    head = find()
    if head is None:
        raise UserError("no cluster that was started here is running.")
    _end_jobs(head.pid)
    members = session_members(head.pid)
    os.kill(head.pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while any(start_time(pid) == began for pid, began in members.items()) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid, began in members.items():
        if start_time(pid) == began:
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(head.temporary, ignore_errors=True)
    (folder() / "cluster.json").unlink(missing_ok=True)


def _end_jobs(head_pid: int) -> None:
    """Let the commands of submitted jobs end as SIGTERM lets them."""
    import psutil

    jobs = []
    for process in psutil.Process(head_pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if JOB_MODULE in process.cmdline():
                process.terminate()
                jobs.append(process)
    psutil.wait_procs(jobs, timeout=STOP_SECONDS)


def _make_token(join: str | None) -> None:
    folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder() / "token"
    own_token = tokens.in_environment()
    if join and not own_token and not path.is_file():
        raise UserError(f"joining {join} needs its token: copy it to {path}, or set RAY_AUTH_TOKEN_PATH.")
    if not own_token and not path.is_file():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32), encoding="utf-8")


def _wait_until_up(process: subprocess.Popen[bytes], log: Path, head: ClusterHead) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if head.dashboard is None:
            if "Ray runtime started" in log.read_text(encoding="utf-8", errors="replace"):
                return
        elif listens(head.dashboard.removeprefix("http://")) and listens(head.address):
            return
        time.sleep(0.3)
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if process.poll() is None:
        stop()
    raise Failure(f"the cluster did not come up: {' '.join(lines[-3:])[-400:] or 'no output'} (log: {log})")


def _own_address(port: int) -> str:
    import ray

    return f"{ray.util.get_node_ip_address()}:{port}"
