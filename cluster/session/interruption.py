"""SIGTERM and Ctrl-C handled by a driver for as long as it works."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def handled_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Call `handler(number, frame)` on SIGINT and SIGTERM; the earlier handlers are put back at the end.

    Outside the main thread, which alone receives signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, earlier)
