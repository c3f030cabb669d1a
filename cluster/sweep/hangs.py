"""Which runs of a sweep hang, which only wait for a machine, and why a worker is gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from cluster.ranks.signs_of_life import last_sign
from cluster.session.session import Resources, Session
from cluster.sweep.sweep import Sweep, SweepEntry

_START_SECONDS = 600.0  # for imports, data sets and networks, before a run gives its first sign of life


class Attempt(NamedTuple):
    """A run at work."""

    worker: Any
    entry: SweepEntry
    started: float
    """seconds since the epoch"""
    up: Any
    """resolves when the worker's process is there"""
    slots: int
    """how many of the cluster's slots it takes"""


class HangWatch:
    """Ends the workers of runs that hang.

    Args:
        need: what a worker takes.
        say: tells the user something in a line.
    """

    def __init__(self, cluster: Session, sweep: Sweep, need: Resources, say: Callable[[str], None]) -> None:
        self.cluster, self.sweep, self.need, self.say = cluster, sweep, need, say
        self._silence: dict[int, float] = {}
        self._said_waiting = False

    def has_machine(self, attempt: Attempt, num_attempts: int) -> bool:
        """Whether an attempt's worker runs, or there is room for it to start; else it waits for a machine."""
        import ray

        if ray.wait([attempt.up], timeout=0)[0] or self.cluster.slots(self.need) >= num_attempts:
            return True
        if not self._said_waiting:
            self._said_waiting = True
            self.say(f"waiting for a machine with {self.need} free; the cluster has {self.cluster}")
        return False

    def end_if_hanging(self, attempt: Attempt) -> bool:
        """Whether a run has written nothing for longer than it may; then its worker is killed."""
        import ray

        sign = last_sign(self.sweep.run_path(attempt.entry))
        limit = self.sweep.settings.hang_seconds + (0 if sign > attempt.started else _START_SECONDS)
        silence = time.time() - max(sign, attempt.started)
        if silence <= limit:
            return False
        self._silence[attempt.entry.index] = silence
        ray.kill(attempt.worker)
        return True

    def reason(self, entry: SweepEntry, error: Exception) -> str:
        """Why the worker of an entry is gone, in a few words; `error` is Ray's."""
        import ray

        silence = self._silence.pop(entry.index, None)
        if silence is not None:
            return f"it gave no sign of life for {silence:.0f} s"
        if isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in str(error):
            return "its worker was ended for want of memory on its machine"
        return "its worker died"
