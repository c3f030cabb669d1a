"""The run that others are compared with."""

from __future__ import annotations

import pytest

from lab.runs.directory import Run
from lab.training.train import train
from tests.lab.training.small_run import experiment


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nobody interrupted."""
    result = train(experiment(), run_dir=tmp_path_factory.mktemp("whole") / "run")
    assert result.status == "completed"
    return result.run
