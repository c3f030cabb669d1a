"""Work of seconds beside training, such as an evaluation: who listens sees how far it is, and may end it by raising."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Listener = Callable[[str, int, int], None]
"""takes what is being done, how many of its parts are done, and how many there are"""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_told: ContextVar[tuple[str, int, int] | None] = ContextVar("told", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let `listener` hear of all long work within."""
    token, last = _listener.set(listener), _told.set(None)
    try:
        yield
    finally:
        _listener.reset(token)
        _told.reset(last)


def tell(work: str, done: int, total: int) -> None:
    """Say that `done` of `total` parts of some work are done, between any two of them; 0: nobody knows how many."""
    listener = _listener.get()
    if listener is not None:
        _told.set((work, done, total))
        listener(work, done, total)


def tell_again() -> None:
    """The same as was told last: between the pieces of one part that may take seconds, too."""
    listener = _listener.get()
    if listener is None:
        return
    last = _told.get()
    if last is not None:
        listener(*last)


def told(work: str, parts: Sequence[T]) -> Iterator[T]:
    """The parts one by one, each told of before it is worked on."""
    for done, part in enumerate(parts):
        tell(work, done, len(parts))
        yield part
