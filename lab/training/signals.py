"""SIGTERM and Ctrl-C end a run with everything saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lab import interrupts


@contextmanager
def stop_on_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """While a run trains, in the main thread, its handler takes SIGTERM and Ctrl-C.

    SIGTERM and the first Ctrl-C end the run after the current chunk, or some seconds later where that takes long; a
    second Ctrl-C ends it at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    interrupts.raise_if_lost()
    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
