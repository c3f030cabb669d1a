"""One private cluster of two CPUs for all tests of this folder, and a small experiment to run on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A started session; its workers inherit this environment."""
    from cluster.session import session

    os.environ["WANDB_MODE"] = "disabled"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with session(num_cpus=2) as started:
        yield started
