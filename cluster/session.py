"""A Ray session: a private cluster on this machine that ends with the session, or a connection to a running cluster.

    with session() as cluster:                       # a private one; nothing of it is left behind, not even on Ctrl-C
    with session(address="ray-head:6379") as cluster:    # somebody's cluster: only connected to, never stopped

A private cluster listens with a token of its own in a file that nobody else may read. Its processes end with the
process that started it, however that ends. Inside a submitted job, `session()` connects to the job's cluster.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cluster import head
from lab.errors import Failure, UserError

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
}
_GUARD = """
import os, signal, sys
pids = sys.stdin.read().split()  # until the driver closes the pipe or dies
for pid in pids:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            if file.read().startswith("ray::"):
                os.kill(int(pid), signal.SIGKILL)
    except OSError:
        pass
"""
_OBJECT_STORE_BYTES = 512 * 2**20
_PROBE_SECONDS = 5.0
_WATCH_SECONDS = 2.0
_MISSES = 3
_UNBOUNDED = 1000  # machines of a kind of which an autoscaler may start any number
_PREFIX = "lab-ray-"


class Resources(NamedTuple):
    """What a run needs of one machine."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


class Session:
    """A connected cluster."""

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
        import ray

        config: Any = ray._private.state.state.get_cluster_config()
        groups = [
            (Resources(group.resources.get("CPU", 0), group.resources.get("GPU", 0)), group.max_count)
            for group in (config.node_group_configs if config is not None else ())
        ]
        fitting = sum(_fits(machine, need) * (_UNBOUNDED if most < 0 else most) for machine, most in groups)
        return max(self.slots(need), fitting)

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
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(_environment(_QUIET | _token(folder)))
            _start(folder, num_cpus or len(os.sched_getaffinity(0)), num_gpus, dashboard)
            stack.enter_context(_guard())
        else:
            stack.enter_context(_environment(_QUIET))
            head.use_token()
            _connect(address)
        stack.callback(_shutdown)
        connected = Session(address)
        if address is not None:
            stack.enter_context(_watch(connected))
        yield connected


def job_address() -> str | None:
    """The cluster's address inside a submitted job, else None."""
    return os.environ.get("RAY_ADDRESS") if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") else None


def _start(folder: Path, num_cpus: int, num_gpus: int | None, dashboard: bool) -> None:
    ray = _import_ray()
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=str(folder),
            **_common(),
        )
    except Exception as error:  # Ray's own is a plain one when its node takes too long
        raise Failure(f"a Ray cluster could not be started on this machine: {_first_line(error)}") from error


@contextlib.contextmanager
def _guard() -> Iterator[None]:
    """End Ray's agents when this process is killed; by themselves they seek the dead head for another minute."""
    guard = subprocess.Popen([sys.executable, "-SEc", _GUARD], stdin=subprocess.PIPE, text=True, start_new_session=True)
    assert guard.stdin is not None
    guard.stdin.write(" ".join(map(str, _agents())))
    guard.stdin.flush()
    try:
        yield
    finally:
        guard.stdin.close()
        guard.wait()


def _agents() -> list[int]:
    """The agents below the raylet that this process started."""
    import psutil

    below = psutil.Process().children(recursive=True)
    return [process.pid for process in below if "Agent" in " ".join(process.cmdline())]


@contextlib.contextmanager
def _watch(connected: Session) -> Iterator[None]:
    """End the process, with a sentence, when the cluster's head is gone: Ray's calls would wait for it for ever."""
    import ray

    address = ray.get_runtime_context().gcs_address
    done = threading.Event()

    def look() -> None:
        misses = 0
        while not done.wait(_WATCH_SECONDS):
            misses = 0 if listens(address) else misses + 1
            if misses >= _MISSES and not done.is_set():
                connected.on_loss()
                print(
                    f"lab: the head of the cluster at {connected.address or address} is gone; "
                    f"what runs have saved is there, and lab resume goes on with it.",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _connect(address: str) -> None:
    _probe(address)
    if address != "auto":
        present_token(address)
    ray = _import_ray()
    try:
        ray.init(address=address, **_common())
    except ray.exceptions.AuthenticationError as error:
        raise UserError(
            f"the cluster at {address!r} refused the token: {_first_line(error)} "
            f"Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the cluster's token file."
        ) from None
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        versions = re.findall(r"(?:Ray|Python): ([0-9]\S*)", str(error))
        if "version mismatch" in str(error).lower() and len(versions) == 4:
            raise UserError(
                f"the cluster at {address!r} runs Ray {versions[0]} on Python {versions[1]}, and this is Ray "
                f"{versions[2]} on Python {versions[3]}; both must be the same."
            ) from None
        if "resolve node to connect to" in str(error):
            raise UserError(
                f"this machine is none of the cluster at {address!r}: lab cluster start --join {address} makes it one, "
                f"and lab submit sends a command there."
            ) from None
        raise UserError(f"the cluster at {address!r} cannot be reached: {_first_line(error)}") from None


def temporary_folder() -> Path:
    """A new folder for a cluster's sockets and logs; those that killed processes left behind are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists() and left.stat().st_uid == os.getuid():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))


def listens(address: str) -> bool:
    """Whether something accepts connections at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def _probe(address: str) -> None:
    """Raise UserError unless something listens at host:port; Ray itself would wait for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--address {address!r} is not host:port (for example 10.0.0.5:6379), nor auto.")
    if not listens(address):
        raise UserError(f"the cluster at {address!r} cannot be reached: nothing accepts connections there.")


def present_token(address: str) -> None:
    """Raise UserError when the head at host:port refuses the token; Ray itself asks again for 20 s, and says so."""
    import grpc
    from ray.core.generated import gcs_service_pb2_grpc

    messages: Any = importlib.import_module("ray.core.generated.gcs_service_pb2")
    path, token = os.environ.get("RAY_AUTH_TOKEN_PATH"), os.environ.get("RAY_AUTH_TOKEN")
    if token is None and path is not None:
        try:
            token = Path(path).expanduser().read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UserError(f"the token file RAY_AUTH_TOKEN_PATH={path} cannot be read: {error.strerror}.") from None
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address) as channel:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        try:
            stub.GetClusterId(messages.GetClusterIdRequest(), timeout=_PROBE_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                said = "refused the token" if token else "asks for a token, and there is none here"
                raise UserError(f"the cluster at {address!r} {said}: RAY_AUTH_TOKEN_PATH names its file.") from None
            raise UserError(f"the cluster at {address!r} cannot be reached: no head of Ray answers there.") from None


def _common() -> dict[str, Any]:
    return {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "lab"}


def _shutdown() -> None:
    import ray

    ray.shutdown()


def _import_ray() -> Any:
    """Import ray so that it takes the environment as it is now, even if it was imported before."""
    loaded = "ray" in sys.modules
    import ray

    ray._private.worker.print_to_stdstream = lambda *arguments, **more: (
        None
    )  # a dead node's log, in the driver's output

    if loaded:
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
    return ray


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
    shares: Sequence[float] = [have / want for have, want in zip(node, need, strict=True) if want]
    return int(min(shares, default=0) + 1e-9)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
