"""SIGTERM and Ctrl-C end a run with everything saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lab.training.loop import RunLoop


@contextmanager
def stop_on_signals(loop: RunLoop) -> Iterator[None]:
    """SIGTERM and the first Ctrl-C end the run after the current chunk; a second Ctrl-C ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    previous = {number: signal.signal(number, loop.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
