"""Compiled code of minutes, beside which the main thread hears signals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from lab.long_work import tell

T = TypeVar("T")
_LOOK_SECONDS = 0.1
_TELL_SECONDS = 5.0


def in_background(function: Callable[[], T], work: str) -> T:
    """What the function returns, or raises, in a thread of its own; meanwhile the seconds of this work are told.

    Where a signal ends the wait by raising, the thread goes on by itself: nobody must use what the function changes.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=work, daemon=True)
    began, told = time.perf_counter(), 0.0
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_SECONDS)
        seconds = time.perf_counter() - began
        if seconds >= told + _TELL_SECONDS:
            told = seconds
            tell(f"seconds of {work}", int(seconds), 0)
    if errors:
        raise errors[0]
    return results[0]
