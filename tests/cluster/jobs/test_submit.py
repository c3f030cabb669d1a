"""Jobs on a cluster of one's own, in a folder of the test's: submitted, followed, stopped, fetched."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.jobs import client, packing, staging, submission
from cluster.session import head
from lab.errors import Failure, UserError


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`command("jobs", ...)`: a lab command in a process of its own; a cluster that is left is stopped."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "LAB_CLUSTER": str(tmp_path / "cluster"),
        "LAB_RUNS": str(tmp_path / "runs"),
        "WANDB_API_KEY": "0123456789abcdef",
        "WANDB_MODE": "disabled",
    }

    def run(*words: object, **more: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "lab.cli", *map(str, words)]
        folder = Path(__file__).parents[3]
        return subprocess.run(
            line, env=environment | more, cwd=folder, capture_output=True, text=True, timeout=200, check=False
        )

    yield run
    run("cluster", "stop")


@pytest.mark.cluster
def test_a_job_from_start_to_fetch(
    command: Callable[..., Any], lab: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_CLUSTER", str(tmp_path / "cluster"))
    ports = ["--port", free_port(), "--dashboard-port", free_port()]
    started = command("cluster", "start", "--cpus", 2, *ports)
    assert started.returncode == 0, started.stderr
    assert "1 machine: 2 CPU" in started.stdout
    assert stat.S_IMODE((tmp_path / "cluster" / "token").stat().st_mode) == 0o600
    again = lab("cluster", "start")
    assert (again.code, "running already" in again.err) == (2, True)

    storage = tmp_path / "storage"
    done = command("submit", "--storage", storage, "train", "classifier/digits-cnn", "trainer.budget=1280")
    assert done.returncode == 0, done.stdout + done.stderr
    job = done.stdout.split()[1].rstrip(";")
    assert "completed" in done.stdout
    assert "0123456789abcdef" not in done.stdout

    (storage / job).rename(storage / "moved")
    assert f"{job} has left no runs: there is no {storage / job}" in command("fetch", job).stderr
    (storage / "moved").rename(storage / job)
    fetched = command("fetch", job, "--out", tmp_path / "fetched")
    assert fetched.returncode == 0, fetched.stderr
    (result,) = (tmp_path / "fetched").glob("*/result.json")
    assert '"status": "completed"' in result.read_text()
    content = b"".join(path.read_bytes() for path in (tmp_path / "fetched").rglob("*") if path.is_file())
    assert b"0123456789abcdef" not in content

    endless = ("train", "classifier/digits-cnn", "trainer.budget=100000000", "trainer.checkpoint_seconds=100000")
    sent = command("submit", "--detach", "--storage", storage, *endless)
    job = sent.stdout.split()[1].rstrip(";")
    deadline = time.monotonic() + 240
    while not list((storage / job).glob("*/metrics.jsonl")):
        assert time.monotonic() < deadline, command("logs", job, "--no-follow").stdout
        time.sleep(0.2)
    assert "stopped" in command("stop", job).stdout
    assert list((storage / job).glob("*/checkpoints/last.ckpt"))
    assert "interrupted" in command("logs", job, "--no-follow").stdout
    assert job in command("jobs").stdout

    assert "knows no such job" in command("logs", "nosuch").stderr
    assert "refused the token" in command("jobs", RAY_AUTH_TOKEN="wrong").stderr
    assert command("cluster", "stop").returncode == 0
    assert "no cluster" in lab("cluster", "status").err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cluster", "start", "--cpus", 0], "--cpus 0 is not valid; it must be above 0."),
        (["cluster", "start", "--port", 70_000], "--port 70000 is not valid; it must be one of 1 to 65535."),
        (["cluster", "start", "--port", "TAKEN"], "is taken on this machine; give another one."),
        (["cluster", "start", "--join", "nonsense"], "--join 'nonsense' is not host:port"),
        (["cluster", "status"], "no cluster that was started here is running"),
        (["submit"], "lab submit needs a command"),
        (["submit", "play"], "unknown command to submit 'play'"),
        (["submit", "--cpus", -1, "train", "dqn/cartpole"], "--cpus -1.0 is not valid; it must be 0 or more."),
        (["submit", "--address", "a b", "train", "dqn/cartpole"], "--address 'a b' is not a dashboard's address"),
        (
            ["submit", "--address", "127.0.0.1:1", "train", "dqn/cartpole"],
            "the cluster at http://127.0.0.1:1 cannot be",
        ),
        (["logs", "some-job"], "there is no cluster here"),
        (["fetch", "some-job", "--out", __file__], "exists already; give another folder with --out."),
    ],
)
def test_bad_input_is_one_sentence(
    lab: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], sentence: str
) -> None:
    monkeypatch.setenv("LAB_CLUSTER", str(tmp_path / "cluster"))
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        done = lab(*(taken.getsockname()[1] if word == "TAKEN" else word for word in words))
    assert done.code == 2
    assert sentence in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "cluster").exists()


def test_a_remote_address_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_CLUSTER", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="there is no token for it"), client.client("http://ray.example.org:8265"):
        pass


def test_only_what_git_tracks_is_shipped(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    git = ["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@b"]
    (project / "mine.py").write_text("x = 1")
    (project / ".env").write_text("KEY=secret")
    (project / "gone.py").write_text("")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "mine.py", "gone.py"], check=True)
    (project / "mine.py").write_text("x = 2")  # the working tree counts, not what was staged
    (project / "gone.py").unlink()
    with staging.staged(project) as folder:
        assert (folder / "mine.py").read_text() == "x = 2"
        assert (folder / "lab" / "cli.py").is_file()
        assert not (folder / ".env").exists()
        assert not (folder / "gone.py").exists()
        assert not list(folder.rglob("__pycache__"))


def test_a_folder_survives_a_log(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "a").mkdir(parents=True)
    (source / "a" / "weights").write_bytes(os.urandom(200_000))
    (source / "link").symlink_to("/etc/passwd")
    lines = list(packing.pack(source))
    log = "\n".join(["something else", *lines[:2], "a warning in between", *lines[2:]])
    packing.unpack(log, tmp_path / "target")
    assert (tmp_path / "target" / "a" / "weights").read_bytes() == (source / "a" / "weights").read_bytes()
    assert not (tmp_path / "target" / "link").exists()
    with pytest.raises(Failure, match="whole"):
        packing.unpack("\n".join(lines[:-1]), tmp_path / "cut")
    with pytest.raises(Failure, match="damaged"):
        packing.unpack("\n".join(lines[1:]), tmp_path / "damaged")


def test_keys_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "abc123")
    assert client.masked("key abc123.") == "key ********."
    assert submission.environment("r")["WANDB_API_KEY"] == "abc123"


def test_a_dead_cluster_is_not_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_CLUSTER", str(tmp_path))
    (tmp_path / "cluster.json").write_text(
        f'{{"pid": {os.getpid()}, "started": 1.0, "address": "a:1", "dashboard": null, "temporary": "/tmp/x"}}'
    )
    assert head.find() is None
    with pytest.raises(UserError, match="no cluster"):
        head.stop()
