"""A home directory that cannot be written costs no line and no run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.caches import without_a_home

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_home_that_cannot_be_written_is_not_talked_about(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "WANDB_", "MPL"))}
    environment |= {"HOME": "/dev/null/home", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    words = ["train", "dqn/cartpole", "trainer.budget=300", "tracking.mode=offline", "--quiet", "--out", "run"]
    done = subprocess.run(
        [sys.executable, "-m", "lab.cli", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert list(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))
    assert not list(tmp_path.glob("lab-home-*"))  # removed at the end


def test_a_home_that_can_be_written_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "not" / "yet" / "there"))
    before = dict(os.environ)
    without_a_home()
    assert dict(os.environ) == before


@pytest.mark.parametrize("home", ["~nobody-of-that-name", "/" + "x" * 300])
def test_a_home_that_nobody_finds_is_none(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    without_a_home()
    assert Path(os.environ["XDG_CACHE_HOME"]).parent.is_dir()


def test_where_nothing_can_be_written_the_lab_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> str:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setenv("HOME", "/dev/null/home")
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    before = dict(os.environ)
    without_a_home()
    assert dict(os.environ) == before
