"""What must not outlive a session, and what a session must not wait for: dead drivers and dead heads."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

from cluster.session import ray_private
from cluster.session.connection import listens

_GUARD = """
import os, signal, sys
pids = sys.stdin.read().split()  # until the driver closes the pipe or dies
for pid in pids:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            if file.read().startswith("ray::"):
                os.kill(int(pid), signal.SIGKILL)
    except OSError:
        pass
"""
_WATCH_SECONDS = 1.0


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """End Ray's agents when this process is killed; left alone they look for the dead head for another minute."""
    guard = subprocess.Popen([sys.executable, "-SEc", _GUARD], stdin=subprocess.PIPE, text=True, start_new_session=True)
    assert guard.stdin is not None
    guard.stdin.write(" ".join(map(str, _agents())))
    guard.stdin.flush()
    try:
        yield
    finally:
        guard.stdin.close()
        guard.wait()


def _agents() -> list[int]:
    """The agents below the raylet that this process started."""
    import psutil

    below = psutil.Process().children(recursive=True)
    return [process.pid for process in below if "Agent" in " ".join(process.cmdline())]


def own_processes() -> Callable[[], bool]:
    """A function that says whether the head and the node that `ray.init` has started still run."""
    processes = ray_private.own_processes()
    return lambda: all(process.poll() is None for process in processes)


def head_answers() -> Callable[[], bool]:
    """A function that says whether the connected cluster's head accepts connections."""
    import ray

    address = ray.get_runtime_context().gcs_address
    return lambda: listens(address)


@contextlib.contextmanager
def watch(there: Callable[[], bool], misses: int, name: str, on_loss: Callable[[], None]) -> Iterator[None]:
    """End the process, with a sentence, when the cluster's head is gone: Ray's calls would wait for it for ever.

    Args:
        there: asked every second whether the head still runs.
        misses: how many answers in a row must be no.
        name: what the sentence calls the head.
        on_loss: called before the process ends.
    """
    done = threading.Event()

    def look() -> None:
        missed = 0
        while not done.wait(_WATCH_SECONDS):
            missed = 0 if there() else missed + 1
            if missed >= misses and not done.is_set():
                on_loss()
                print(
                    f"lab: the {name} is gone; what runs have saved is there, and lab resume goes on with it.",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)

    threading.Thread(target=look, daemon=True).start()
    atexit.register(done.set)  # before Ray's own: a script may end with its session open
    try:
        yield
    finally:
        done.set()
        atexit.unregister(done.set)
