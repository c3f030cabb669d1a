"""What all tests share: folders of their own, no tracking, one thread, the lab command in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


class Finished(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs, data and tracking of a test touch nothing outside its own folder."""
    from lab import catalog

    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LAB_CACHE", str(tmp_path.parent / "cache"))  # one for all tests: filling it takes seconds
    monkeypatch.delenv("LAB_DATA", raising=False)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setattr(catalog, "_allowed", set())


@pytest.fixture
def lab(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """`lab("train", "dqn/cartpole", ...)` in this process; SystemExit of argparse counts as its exit code."""
    from lab.cli import main

    def run(*words: object) -> Finished:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return run
