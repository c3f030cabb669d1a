"""Jobs on a cluster of one's own, in a folder of the test's: submitted, followed, stopped, fetched."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.jobs import client, entrypoint, packing, staging
from cluster.session import head, keys, tokens
from lab.errors import Failure, UserError

KEY = secrets.token_hex(20)
ENDLESS = ("train", "classifier/digits-cnn", "trainer.budget=100000000", "trainer.checkpoint_seconds=100000")


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
        "WANDB_API_KEY": KEY,
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


def trains_on(command: Callable[..., Any], storage: Path) -> str:
    """A job that trains without an end, and has begun to."""
    sent = command("submit", "--detach", "--storage", storage, *ENDLESS)
    job: str = sent.stdout.split()[1].rstrip(";")
    deadline = time.monotonic() + 240
    while not list((storage / job).glob("*/metrics.jsonl")):
        assert time.monotonic() < deadline, command("logs", job, "--no-follow").stdout
        time.sleep(0.2)
    return job


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
    assert KEY not in done.stdout
    private = Path(json.loads((tmp_path / "cluster" / "cluster.json").read_text())["temporary"])
    assert stat.S_IMODE(private.stat().st_mode) == 0o700  # what is below Ray lets everyone write to
    files = [path for folder in (private, tmp_path / "cluster", storage) for path in folder.rglob("*")]
    texts = [path.read_bytes() for path in files if path.is_file() and not path.is_symlink()]
    assert len(texts) > 20
    assert not [text for text in texts if KEY.encode() in text]

    (storage / job).rename(storage / "moved")
    assert f"{job} has left no runs: there is no {storage / job}" in command("fetch", job).stderr
    (storage / "moved").rename(storage / job)
    fetched = command("fetch", job, "--out", tmp_path / "fetched")
    assert fetched.returncode == 0, fetched.stderr
    (result,) = (tmp_path / "fetched").glob("*/result.json")
    assert '"status": "completed"' in result.read_text()
    content = b"".join(path.read_bytes() for path in (tmp_path / "fetched").rglob("*") if path.is_file())
    assert KEY.encode() not in content

    job = trains_on(command, storage)
    assert "stopped" in command("stop", job).stdout
    assert list((storage / job).glob("*/checkpoints/last.ckpt"))
    assert "interrupted" in command("logs", job, "--no-follow").stdout
    assert job in command("jobs").stdout

    page = command("submit", "--storage", storage, "compare", storage, "--html", "page.html")
    assert page.returncode == 0, page.stdout + page.stderr
    job = page.stdout.split()[1].rstrip(";")
    assert command("fetch", job, "--out", tmp_path / "page").returncode == 0
    assert (tmp_path / "page" / "page.html").stat().st_size > 10_000
    wrong = command("submit", "train", "dqn/cartpol")
    assert (wrong.returncode, "Did you mean 'dqn/cartpole'" in wrong.stderr) == (2, True)

    job = trains_on(command, storage)

    assert "knows no such job" in command("logs", "nosuch").stderr
    assert "refused the token" in command("jobs", RAY_AUTH_TOKEN="wrong").stderr
    assert command("cluster", "stop").returncode == 0
    assert list((storage / job).glob("*/checkpoints/last.ckpt"))  # the job that was running was saved first
    assert not private.exists()
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
    monkeypatch.setenv("HOME", str(tmp_path))
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
    lines: list[str] = []
    packing.pack(source, lines.append)
    packing.unpack(["something else", *lines[:2], "a warning in between", *lines[2:]], tmp_path / "target")
    assert (tmp_path / "target" / "a" / "weights").read_bytes() == (source / "a" / "weights").read_bytes()
    assert not (tmp_path / "target" / "link").exists()
    with pytest.raises(Failure, match="whole"):
        packing.unpack(lines[:-1], tmp_path / "cut")
    with pytest.raises(Failure, match="damaged"):
        packing.unpack(lines[1:], tmp_path / "damaged")


def test_keys_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "abc123")
    assert keys.masked("key abc123.") == "key ********."
    assert keys.own_keys()["WANDB_API_KEY"] == "abc123"


def test_a_dead_cluster_is_not_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_CLUSTER", str(tmp_path))
    (tmp_path / "cluster.json").write_text(
        f'{{"pid": {os.getpid()}, "started": 1.0, "address": "a:1", "dashboard": null, "temporary": "/tmp/x"}}'
    )
    assert head.find() is None
    with pytest.raises(UserError, match="no cluster"):
        head.stop()


def test_a_job_whose_first_process_is_killed_ends_saved(tmp_path: Path) -> None:
    """As Ray kills it when the head dies."""
    environment = {**os.environ, "LAB_RUNS": str(tmp_path / "runs")}
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(
            [sys.executable, "-m", "cluster.jobs.entrypoint", *ENDLESS, "tracking.mode=disabled"],
            env=environment | {"PYTHONPATH": str(Path(__file__).parents[3])},
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*/metrics.jsonl")):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        first.send_signal(signal.SIGKILL)
        first.wait()
    while not list(tmp_path.glob("runs/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    while "interrupted" not in (tmp_path / "log").read_text():
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    assert "the cluster's head is gone; what runs saves itself" in (tmp_path / "log").read_text()


def test_what_a_job_writes_beside_itself_is_put_with_its_runs(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine.py").write_text("")
    script = (
        "import lab.cli, pathlib, sys; lab.cli.main = lambda words: pathlib.Path('new.txt').write_text(words[0]) * 0;"
    )
    script += "from cluster.jobs import entrypoint; sys.exit(entrypoint.run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", script, "words"],
        env={**os.environ, "LAB_RUNS": str(tmp_path / "runs"), "PYTHONPATH": str(Path(__file__).parents[3])},
        cwd=tmp_path / "work",
        check=False,
    )
    assert done.returncode == 0
    assert (tmp_path / "runs" / "new.txt").read_text() == "words"
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["mine.py"]


def test_relative_outputs_lie_with_the_runs_from_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    assert entrypoint.placed(["train", "dqn/cartpole", "--out", "a"]) == [
        "train",
        "dqn/cartpole",
        "--out",
        f"{tmp_path}/a",
    ]
    assert entrypoint.placed(["sweep", "x", "--out=/b"]) == ["sweep", "x", "--out", "/b"]


def test_code_goes_along_without_git_and_what_stays_is_named(tmp_path: Path) -> None:
    for name in ("main.py", "package/a.py", "package/deep/b.yaml", ".venv/c.py", "env/d.py", "runs/x/experiment.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    (tmp_path / "runs" / "x" / "result.json").write_text("{}")
    assert {str(path) for path in staging.tracked(tmp_path)} == {"main.py", "package/a.py", "package/deep/b.yaml"}
    assert staging.left_behind(tmp_path) == ""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "add", "main.py"], check=True)
    assert staging.tracked(tmp_path) == [Path("main.py")]
    assert "package/a.py" in staging.left_behind(tmp_path)


def test_the_token_that_belongs_to_an_address_is_tried_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LAB_CLUSTER", str(tmp_path / "cluster"))
    own, of_ray = tmp_path / "cluster" / "token", tmp_path / ".ray" / "auth_token"
    assert tokens.candidates("10.0.0.9") == [None]
    for path in (own, of_ray):
        path.parent.mkdir()
        path.write_text("x")
    (tmp_path / "cluster" / "cluster.json").write_text('{"address": "10.0.0.5:6379"}')
    assert tokens.candidates("10.0.0.5") == tokens.candidates("127.0.0.1") == [own, of_ray]
    assert tokens.candidates("10.0.0.9") == [of_ray, own]
    assert f"refused the token in {own} and {of_ray}" in tokens.refused([own, of_ray], "10.0.0.5:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "y")
    assert tokens.candidates("10.0.0.5") == [None]
