"""The private names of Ray that the lab uses are still there, stand in one file, and do what they are used for."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import ray

from cluster.session import ray_private

CLUSTER = Path(ray_private.__file__).parents[1]
LOST = {
    "ray._private.worker:print_to_stdstream": "the log of a node that dies comes into the driver's output",
    "ray._private.worker:global_worker": "a driver does not notice that the head it has started is gone",
    "ray._raylet:Config.initialize": "a second session in a process keeps the settings of the first",
    "ray._raylet:AuthenticationTokenLoader.instance": "a second session in a process shows the token of the first",
    "ray._private.utils:set_sigterm_handler": "SIGTERM ends a run that has started a cluster, unsaved",
    "ray._raylet:GcsClient": "a submitted job does not find the keys that were left for it",
    "ray._private.state:state.get_cluster_config": "a sweep does not know what an autoscaler may start",
    "ray.core.generated.gcs_service_pb2:GetClusterIdRequest": "a wrong token is reported only after 20 s",
    "ray.core.generated.gcs_service_pb2_grpc:NodeInfoGcsServiceStub": "a wrong token is reported only after 20 s",
}


@pytest.mark.parametrize("name", LOST)
def test_ray_still_has_the_name(name: str) -> None:
    module, _, attributes = name.partition(":")
    sentence = (
        f"Ray {ray.__version__} has taken away {name.replace(':', '.')}, without which {LOST[name]}: "
        f"cluster/session/ray_private.py needs another way."
    )
    try:
        part: Any = importlib.import_module(module)
        for attribute in attributes.split("."):
            part = getattr(part, attribute)
    except (ImportError, AttributeError):
        pytest.fail(sentence)


def test_ray_init_still_takes_a_folder(tmp_path: Path) -> None:
    (option,) = ray_private.folder_option(tmp_path)
    assert f'"{option}"' in inspect.getsource(ray.init), (
        f"Ray {ray.__version__} has taken away the option {option} of ray.init, without which a private cluster leaves "
        f"its sockets and logs in /tmp/ray: cluster/session/ray_private.py needs another way."
    )


def private_uses(path: Path) -> Iterator[str]:
    """Modules and attributes of ray with an underscore, and generated messages, that a file names."""
    private = re.compile(r"\bray\.(?:\w+\.)*(?:_(?!_)\w+|generated)\b")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            names = [node.value]
        elif isinstance(node, ast.keyword) and node.arg == "_temp_dir":
            yield node.arg
        yield from (name for name in names if private.match(name))


def test_all_of_them_stand_in_one_file() -> None:
    uses = {path: set(private_uses(path)) for path in CLUSTER.rglob("*.py")}
    assert {path.name for path, names in uses.items() if names} == {"ray_private.py"}
    modules = {name.partition(":")[0] for name in LOST}
    assert uses[Path(ray_private.__file__)] == modules, "each needs its line in LOST"


def test_every_function_says_why() -> None:
    functions = [each for _, each in inspect.getmembers(ray_private, inspect.isfunction)]
    assert functions
    assert [each.__name__ for each in functions if "Why: " not in (each.__doc__ or "")] == []


def test_the_processes_of_a_private_cluster_are_named(cluster: Any) -> None:
    processes = ray_private.own_processes()
    commands = [Path(f"/proc/{process.pid}/cmdline").read_text().partition("\0")[0] for process in processes]
    assert {Path(command).name for command in commands} >= {"gcs_server", "raylet"}
    assert all(process.poll() is None for process in processes)


def test_the_machines_that_an_autoscaler_may_start_are_listed(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray_private.machine_groups() == []
    messages: Any = importlib.import_module("ray.core.generated.autoscaler_pb2")
    group = messages.NodeGroupConfig(name="gpu", resources={"CPU": 8, "GPU": 2}, min_count=0, max_count=3)
    config = messages.ClusterConfig(node_group_configs=[group])
    state: Any = importlib.import_module("ray._private.state")
    monkeypatch.setattr(state.state, "get_cluster_config", lambda: config)
    assert [(dict(resources), most) for resources, most in ray_private.machine_groups()] == [({"CPU": 8, "GPU": 2}, 3)]


def test_the_head_answers_a_token_and_refuses_another(cluster: Any) -> None:
    address = ray.get_runtime_context().gcs_address
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
    ray_private.ask_head(address, token, 5.0)
    for wrong in ("wrong", None):
        with pytest.raises(grpc.RpcError) as error:
            ray_private.ask_head(address, wrong, 5.0)
        code: Any = error.value
        assert code.code() == grpc.StatusCode.UNAUTHENTICATED


def test_ray_reads_the_environment_again() -> None:
    """In a process of its own: it changes what the process knows of Ray's settings."""
    script = """
import os, ray
from ray._raylet import Config
from cluster.session import ray_private
before = Config.health_check_period_ms()
os.environ["RAY_health_check_period_ms"] = str(before + 1)
assert Config.health_check_period_ms() == before
ray_private.reread_environment()
print(Config.health_check_period_ms() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr


def test_bytes_left_with_the_head_are_taken_once(cluster: Any) -> None:
    address = ray.get_runtime_context().gcs_address
    ray.experimental.internal_kv._internal_kv_put("gcs://here.zip", b"content")
    assert ray_private.take_from_head(address, "here") == b"content"
    assert ray_private.take_from_head(address, "here") is None


def test_ray_sets_no_handler_meanwhile() -> None:
    utils: Any = importlib.import_module("ray._private.utils")
    before = signal.getsignal(signal.SIGTERM)
    with ray_private.without_sigterm_handlers():
        utils.set_sigterm_handler(lambda number, frame: None)
    assert signal.getsignal(signal.SIGTERM) == before
    utils.set_sigterm_handler(lambda number, frame: None)
    assert signal.getsignal(signal.SIGTERM) != before
    signal.signal(signal.SIGTERM, before)
