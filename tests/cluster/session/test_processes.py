"""What processes of the cluster take over from the one that started them, and how that one handles signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cluster.session.error_lines import first_line, last_line, one_line
from cluster.session.imports import Imports
from cluster.session.interruption import handled_signals
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


def test_signals_go_to_the_handler_until_the_end() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    numbers: list[int] = []
    with handled_signals(lambda number, frame: numbers.append(number)):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert numbers == [signal.SIGINT, signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_thread_leaves_signals_alone() -> None:
    handlers: list[Any] = []

    def work() -> None:
        with handled_signals(lambda number, frame: None):
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


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
