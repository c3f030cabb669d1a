"""What a process on the cluster imports, how processes are told apart, and lines of their errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.session.error_lines import first_line, last_line, one_line
from cluster.session.imports import Imports
from cluster.session.processes import session_members, start_time
from lab import catalog


def test_a_process_imports_what_its_starter_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    catalog.allow_import("json")
    imports = Imports.of_this_process()
    assert imports.paths[0] == str(Path.cwd())
    assert "" not in imports.paths
    assert list(imports.packages) == ["json"]
    monkeypatch.setattr(sys, "path", ["there"])
    monkeypatch.setattr(catalog, "_allowed", set())
    Imports(["there", str(tmp_path)], ["json"]).adopt()
    assert sys.path.count("there") == sys.path.count(str(tmp_path)) == 1
    assert list(catalog.allowed_imports()) == ["json"]


def test_processes_are_told_from_later_ones_with_their_id() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        began = start_time(sleeper.pid)
        assert began is not None
        assert session_members(sleeper.pid) == {sleeper.pid: began}
        sleeper.kill()
        while start_time(sleeper.pid) is not None:  # a zombie has ended
            pass
    finally:
        sleeper.kill()
        sleeper.wait()
    assert session_members(sleeper.pid) == {}


def test_lines_of_errors() -> None:
    error = RuntimeError("\n  first \nTraceback:\n    x = 1\n    ^^^^^\nValueError: last\n   ~~~^\n")
    assert first_line(error) == "first"
    assert last_line(error) == "ValueError: last"
    assert one_line(RuntimeError("a\n  b")) == "a b"
    assert first_line(KeyError()) == last_line(KeyError()) == "KeyError"
    assert {len(line(RuntimeError("x" * 999))) for line in (first_line, last_line, one_line)} == {300}
