"""A private cluster: its own token, nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.session import head, ray_private
from cluster.session.connection import start_ray
from cluster.session.session import Resources, job_address, session, temporary_folder
from lab.errors import UserError

STARTS_AND_WAITS = """
import os, sys, time
from cluster.session.session import session
with session(num_cpus=1):
    print(os.environ["RAY_AUTH_TOKEN_PATH"], flush=True)
    time.sleep(600)
"""


def test_counts_what_fits(cluster: Any) -> None:
    assert cluster.private
    assert cluster.slots(Resources(1, 0)) == 2
    assert cluster.slots(Resources(0.5, 0)) == 4
    with pytest.raises(UserError, match="each run needs 64 CPU and 1 GPU on one machine; the cluster has 2 CPU"):
        cluster.require(Resources(64, 1), "each run")


def test_the_token_is_the_users_alone(cluster: Any) -> None:
    path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text()) == 64


@pytest.fixture
def own_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sessions of other tests, which clear up behind the dead, look elsewhere; Ray's sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield


@pytest.mark.cluster
@pytest.mark.usefixtures("own_temporary_folder")
@pytest.mark.parametrize("killed", ["driver", "gcs_server"])
def test_when_the_driver_or_the_head_is_killed_no_process_is_left(killed: str, processes: Any) -> None:
    command = [sys.executable, "-c", STARTS_AND_WAITS]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    folder = Path(driver.stdout.readline().strip()).parent
    family = processes.family(driver.pid)
    assert len(family) > 3
    named = [pid for pid in family if processes.command(pid).partition("\0")[0].endswith(f"/{killed}")]
    os.kill(*(named or [driver.pid]), signal.SIGKILL)
    _, errors = driver.communicate(timeout=30)
    sentence = (
        "lab: the Ray that this process started is gone; what runs have saved is there, and lab resume goes on with it."
    )
    assert errors.splitlines() == ([sentence] if named else [])
    assert driver.returncode == (1 if named else -signal.SIGKILL)
    deadline = time.monotonic() + 30
    while processes.alive(family) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes.alive(family) == []
    assert folder.is_dir()
    shutil.rmtree(temporary_folder())  # making one removes what the dead left
    assert not folder.exists()


def test_a_submitted_job_uses_its_own_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert job_address() is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert job_address() == "10.0.0.1:6379"


def test_an_autoscaler_may_have_room_for_more(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [({}, 0), ({"CPU": 8}, 3), ({"CPU": 8, "GPU": 2}, 2)]
    monkeypatch.setattr(ray_private, "machine_groups", lambda: groups)
    assert cluster.possible(Resources(1, 0)) == 40
    assert cluster.possible(Resources(1, 0.5)) == 8
    assert cluster.require(Resources(8, 1), "each run") == 2
    with pytest.raises(UserError, match="each run needs 9 CPU on one machine"):
        cluster.require(Resources(9, 0), "each run")
    groups.append(({"CPU": 16}, -1))  # any number
    assert cluster.possible(Resources(16, 0)) == 1000


@pytest.mark.cluster
def test_sigterm_while_ray_starts_ends_it_with_a_word(tmp_path: Path, processes: Any) -> None:
    code = "import sys; from lab.cli import main; sys.exit(main(['sweep', 'dqn/cartpole', '--out', 'sweep']))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=-1, stderr=-1, text=True) as driver:
        try:
            deadline = time.monotonic() + 60
            while not list(Path(tempfile.gettempdir()).glob(f"lab-ray-{driver.pid}-*/{head.RAY_FOLDER}/session_2*")):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            family = processes.family(driver.pid)
            driver.send_signal(signal.SIGTERM)
            out, err = driver.communicate(timeout=60)
        finally:
            driver.kill()
    assert driver.returncode in (130, -signal.SIGINT)  # a shell says 130 of both
    assert "Traceback" not in err
    assert "interrupted" in out + err
    assert processes.alive(family) == []
    assert not list(Path(tempfile.gettempdir()).glob(f"lab-ray-{driver.pid}-*"))


def test_other_versions_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from cluster.session import connection as module

    def refuse(**options: Any) -> None:
        metadata = {"ray_version": "2.9.0", "python_version": "3.9.1"}
        ray._private.utils.check_version_info(metadata, "node 10.0.0.2")

    monkeypatch.setattr(module, "probe", lambda address: None)
    monkeypatch.setattr(module, "present_token", lambda address: None)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError, match=r"runs Ray 2\.9\.0 on Python 3\.9\.1, and this is Ray 2\.\S+ on Python 3\."):
        module.connect("10.0.0.1:6379")


def test_a_connection_that_fails_leaves_the_cluster_that_there_is(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def refuse(**options: Any) -> None:
        raise ConnectionError("nobody is there")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConnectionError):
        start_ray(address="10.0.0.1:6379")
    assert ray.is_initialized()
    assert cluster.nodes() == [Resources(2, 0)]


def test_what_is_no_head_of_ray_is_told_apart() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UserError, match="no head of Ray answers there"), session(address):
            pass


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:1", "cannot be reached: nothing accepts"),
        ("ray://head", "is not host:port"),
        ("a" * 70 + ":80", "cannot be reached: nothing accepts"),  # no host has such a name
    ],
)
def test_a_wrong_address_is_told_in_a_sentence(address: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence), session(address):
        pass
