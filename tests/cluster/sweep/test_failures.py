"""Two nodes on one machine, started by the lab's own commands; then one of them is killed, and then the head."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.session.connection import present_token
from lab import catalog
from lab.errors import UserError
from lab.runs.directory import Run
from lab.training.train import train

HERE = Path(__file__).parents[1]
Lab = Callable[..., subprocess.Popen[str]]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(condition: Callable[[], Any], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


@pytest.fixture
def lab_of(tmp_path: Path) -> Iterator[Callable[[str], Lab]]:
    """`lab_of(node)("cluster", "start")`: a lab command on one of several "machines", each with a folder of its own."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    inherited |= {"PYTHONPATH": str(HERE), "WANDB_MODE": "disabled", "LAB_RUNS": str(tmp_path / "runs")}
    nodes: set[str] = set()

    def of(node: str) -> Lab:
        nodes.add(node)

        def lab(*words: object, **more: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, "-m", "lab.cli", *map(str, words)],
                env={**inherited, "LAB_CLUSTER": str(tmp_path / node), **more},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

        return lab

    yield of
    for node in nodes:
        of(node)("cluster", "stop").communicate(timeout=120)


def kill_node(folder: Path) -> None:
    """SIGKILL for the node that was started with `folder`: every process of its session, at once."""
    leader = json.loads((folder / "cluster.json").read_text())["pid"]
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[3]) == leader:
                os.kill(int(path.parent.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue


def rows(path: Path) -> list[dict[str, Any]]:
    """A run's metrics without the clock."""
    clocks = ("seconds", "charts/steps_per_second")
    return [{key: value for key, value in row.items() if key not in clocks} for row in Run(path).metrics()]


@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_a_sweep_survives_the_death_of_a_node_and_of_the_head(
    lab_of: Callable[[str], Lab], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, other, out = lab_of("head"), lab_of("other"), tmp_path / "sweep"
    ports = ("--port", free_port(), "--dashboard-port", free_port())
    token = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "head" / "token")}
    output, _ = head("cluster", "start", "--cpus", 1, *ports).communicate(timeout=240)
    address = json.loads((tmp_path / "head" / "cluster.json").read_text())["address"]
    output, _ = other("cluster", "start", "--cpus", 1, "--join", address, **token).communicate(timeout=240)
    assert "2 machines: 1 CPU, 1 CPU" in output

    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "no-token-of-ray"))
    monkeypatch.setenv("LAB_CLUSTER", str(tmp_path / "no-cluster-here"))
    for shown, sentence in ((None, "asks for a token, and there is none here"), ("wrong", "refused the token")):
        if shown is not None:
            monkeypatch.setenv("RAY_AUTH_TOKEN", shown)
        with pytest.raises(UserError, match=sentence):
            present_token(address)

    recipe = "recipes_for_tests:small"
    words = (recipe, "--seeds", 2, "trainer.budget=96000", "--out", out, "--address", address)
    driver = head("sweep", *words)
    runs = [out / "runs" / f"{i:03}-small-s{i}" for i in range(2)]
    wait_for(lambda: all((run / "checkpoints" / "last.ckpt").is_file() for run in runs) or driver.poll() is not None)
    kill_node(tmp_path / "other")
    wait_for(lambda: '"attempts": 2' in (out / "state.json").read_text() or driver.poll() is not None)
    kill_node(tmp_path / "head")
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == 1
    assert "its worker died; it goes on from its last checkpoint (attempt 2 of 3)" in output
    assert f"lab: the head of the cluster at {address} is gone" in output.splitlines()[-1]

    output, _ = head("cluster", "start", "--cpus", 2, *ports).communicate(timeout=240)
    assert "1 machine: 2 CPU" in output
    driver = head("resume", out, "--address", address, "--import", "recipes_for_tests")
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output
    monkeypatch.syspath_prepend(str(HERE))
    catalog.allow_import("recipes_for_tests")
    for i, run in enumerate(runs):
        undisturbed = train(Run(run).experiment(), run_dir=tmp_path / f"undisturbed-{i}")
        assert rows(undisturbed.run.path) == rows(run)
