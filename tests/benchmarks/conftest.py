from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts can be imported as they import each other."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in [*sys.modules]:
        if name.partition(".")[0] in {path.stem for path in FOLDER.iterdir()}:
            del sys.modules[name]
