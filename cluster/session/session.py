"""A Ray session: a private cluster on this machine that ends with the session, or a connection to a running cluster.

    with session() as cluster:                       # a private one; nothing of it is left behind, not even on Ctrl-C
    with session(address="ray-head:6379") as cluster:    # somebody's cluster: only connected to, never stopped

A private cluster listens with a token of its own in a file that nobody else may read. Its processes end with the
process that started it, however that ends. Inside a submitted job, `session()` connects to the job's cluster.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from cluster.session import head, ray_private
from cluster.session.connection import connect, import_ray, start_ray
from cluster.session.error_lines import first_line
from cluster.session.guards import guard, head_answers, own_processes, watch
from lab.errors import Failure, UserError

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",  # at Ray's 15 workers wait for the driver, and lose to whatever else runs
}
_OBJECT_STORE_BYTES = 512 * 2**20
_UNBOUNDED = 1000  # machines of a kind of which an autoscaler may start any number
_PREFIX = "lab-ray-"
_REMOVE_SECONDS = 5.0


class Resources(NamedTuple):
    """What a run needs of one machine."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


class Session:
    """A connected cluster; `address` is None for a private one."""

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.on_loss: Callable[[], None] = lambda: None
        """called when the cluster's head is gone, before the process ends"""

    @property
    def private(self) -> bool:
        """Whether this session started the cluster and ends it."""
        return self.address is None

    def __str__(self) -> str:
        return ", ".join(map(str, self.nodes())) or "no machine"

    def nodes(self) -> list[Resources]:
        """CPUs and GPUs of each node that is alive."""
        import ray

        totals = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return [Resources(total.get("CPU", 0.0), total.get("GPU", 0.0)) for total in totals]

    def slots(self, need: Resources) -> int:
        """How many pieces of work that each need `need` fit onto the cluster at once."""
        return sum(_fits(node, need) for node in self.nodes())

    def possible(self, need: Resources) -> int:
        """`slots`, once an autoscaler that the cluster may have has started every machine that it may."""
        startable = 0
        for resources, most in ray_private.machine_groups():
            machine = Resources(resources.get("CPU", 0), resources.get("GPU", 0))
            startable += _fits(machine, need) * (_UNBOUNDED if most < 0 else most)
        return max(self.slots(need), startable)

    def require(self, need: Resources, what: str) -> int:
        """`possible`, at least 1. Raises UserError that says what there is when nothing fits."""
        slots = self.possible(need)
        if not slots:
            raise UserError(f"{what} needs {need} on one machine; the cluster has {self}.")
        return slots


@contextlib.contextmanager
def session(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    dashboard: bool = False,
) -> Iterator[Session]:
    """Connect to the cluster at `address` (host:port or auto), or start a private one.

    Call it from the main thread: the cluster's processes end with the thread that started them.
    Raises UserError when the cluster cannot be reached, refuses the token, or runs another Ray or Python.
    """
    address = address or job_address()
    with contextlib.ExitStack() as stack:
        if address is None:
            folder = temporary_folder()
            stack.callback(_remove, folder)
            stack.enter_context(_environment(_SETTINGS | _token(folder)))
            _start(folder, num_cpus or len(os.sched_getaffinity(0)), num_gpus, dashboard)
            stack.enter_context(guard())
            there, misses, name = own_processes(), 1, "Ray that this process started"
        else:
            stack.enter_context(_environment(_SETTINGS))
            connect(address)
            there, misses, name = head_answers(), 5, f"head of the cluster at {address}"
        stack.callback(_shutdown)
        connected = Session(address)
        stack.enter_context(watch(there, misses, name, lambda: connected.on_loss()))
        yield connected


@contextlib.contextmanager
def current_session() -> Iterator[Session]:
    """The cluster that this process is connected to (in a sweep, in a submitted job), or else a private one."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        yield Session("auto")
        return
    with session() as private:
        yield private


def job_address() -> str | None:
    """The cluster's address inside a submitted job, else None."""
    return os.environ.get("RAY_ADDRESS") if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") else None


def _start(folder: Path, num_cpus: int, num_gpus: int | None, dashboard: bool) -> None:
    import_ray()
    try:
        start_ray(
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            object_store_memory=_OBJECT_STORE_BYTES,
            **ray_private.folder_option(folder / head.RAY_FOLDER),
        )
    except Exception as error:  # Ray's own is a plain one when its node takes too long
        raise Failure(f"a Ray cluster could not be started on this machine: {first_line(error)}") from error


def temporary_folder() -> Path:
    """A new folder for a cluster's sockets and logs; those that killed processes left behind are removed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists() and folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))


def _remove(folder: Path) -> None:
    """Remove a private cluster's folder, after those of its processes that a start cut short has left behind."""
    left = set[psutil.Process]()
    for process in psutil.Process().children(recursive=True):
        if _mentions(process, folder):
            with contextlib.suppress(psutil.Error):
                left |= {process, *process.children(recursive=True)}  # its agents, which are named otherwise
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, _REMOVE_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


def _mentions(process: psutil.Process, folder: Path) -> bool:
    """Whether a process was started with a path below the folder."""
    try:
        return any(str(folder) in word for word in process.cmdline())
    except psutil.Error:
        return False


def _shutdown() -> None:
    import ray

    ray.shutdown()


def _token(folder: Path) -> dict[str, str]:
    """The environment of a cluster whose token only the user can read."""
    import secrets

    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32), encoding="utf-8")
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for this process and what it starts, put back afterwards."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _fits(node: Resources, need: Resources) -> int:
    ratios = [available / amount for available, amount in zip(node, need, strict=True) if amount]
    return int(min(ratios, default=0) + 1e-9)
