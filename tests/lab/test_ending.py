"""How the program ends: signals that code loses, streams that are closed, what is still to be done."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Lab = Callable[..., Any]


SWALLOWS = """
import os, signal, sys, time
import lab.cli
class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
def run(*arguments):
    Swallows()
    time.sleep(60)
    return 0
lab.cli._run, hook = run, sys.unraisablehook
code = lab.cli.main(["list"])
assert sys.unraisablehook is hook and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
sys.exit(code)
"""


def test_an_interrupt_that_a_destructor_swallows_comes_again() -> None:
    """In a process of its own: others may have set handlers in this one."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWS], cwd=root, capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


LOSES = """
import os, signal, sys
import lab.cli
def run(*arguments):
    try:
        os.kill(os.getpid(), {number})
        for _ in range(1000):
            pass
    except KeyboardInterrupt:  # as C code does that imports a module
        {then}
lab.cli._run = run
sys.exit(lab.cli.main(["list"]))
"""
TRAINS = """
        from lab.training.signals import stop_on_signals
        with stop_on_signals(lambda number, frame: None):
            return 0
"""


@pytest.mark.parametrize("number", ["signal.SIGTERM", "signal.SIGINT"])
@pytest.mark.parametrize("then", ["raise AttributeError('no such name') from None", TRAINS])
def test_an_interrupt_that_an_import_loses_is_one(number: str, then: str) -> None:
    code = LOSES.format(number=number, then=then.strip())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_an_error_after_an_interrupt_of_an_earlier_command_is_an_error(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lab.cli as cli

    def interrupted(*arguments: Any) -> int:
        cli.interrupts.note()
        raise KeyboardInterrupt

    def fails(*arguments: Any) -> int:
        raise AttributeError("no such name")

    monkeypatch.setattr(cli, "_run", interrupted)
    assert lab("list").code == 130
    monkeypatch.setattr(cli, "_run", fails)
    done = lab("list")
    assert (done.code, "AttributeError: no such name" in done.err) == (1, True)


ENDS = """
import atexit, os, sys, threading, time
import lab.cli
def run(*arguments):
    atexit.register(print, "exit handler")
    lab.left_open = open(os.environ["LEFT_OPEN"], "w")
    lab.left_open.write("a line")
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    print("no newline", end=" ")
    return 3
lab.cli._run = run
sys.argv = ["lab", "list"]
lab.cli.program()
"""


def test_the_program_ends_as_python_does(tmp_path: Path) -> None:
    environment = os.environ | {"LEFT_OPEN": str(tmp_path / "open.txt")}
    ended = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=50, env=environment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "no newline thread\nexit handler\n", "")
    assert (tmp_path / "open.txt").read_text() == "a line"


@pytest.mark.parametrize(("words", "code"), [("list >&-", 0), ("list 2>&-", 0), ("nope 2>&-", 2), ("nope >&- 2>&-", 2)])
def test_closed_streams_change_no_exit_code(words: str, code: int) -> None:
    assert (
        subprocess.run(f"{sys.executable} -m lab.cli {words}", shell=True, stdout=subprocess.DEVNULL).returncode == code
    )


def test_the_program_ends_quietly_where_nobody_reads_on() -> None:
    code = "import sys; sys.argv = ['lab', 'list']; from lab.cli import program; program()"
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.close()
    assert writer.stderr.read() == b""
    assert writer.wait(50) == 0
