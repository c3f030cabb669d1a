"""The workers of a team: how many there is room for, those that are there, and new ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.ranks.rank import RankWorker
from cluster.ranks.worker import start_worker
from cluster.session.session import Resources, Session
from lab.errors import Failure, UserError

_TICK_SECONDS = 0.25
_START_SECONDS = 120.0  # for workers to get their resources and imports


class Roster:
    """Keeps the actors of a team, so that those that survive an attempt need no new process.

    Args:
        need: what one worker takes.
        sizes: the valid numbers of workers, ascending.
    """

    def __init__(self, cluster: Session, need: Resources, sizes: Sequence[int]) -> None:
        self.cluster, self.need, self.sizes = cluster, need, sizes
        self.workers: list[Any] = []

    def room(self) -> int:
        """The largest valid number of workers that the cluster's machines can hold, or 0."""
        return self._largest(self.cluster.slots(self.need))

    def room_to_widen(self) -> int:
        """`room` without what others use now."""
        import ray

        free = ray.available_resources()
        ratios = [free.get(name, 0.0) / n for name, n in zip(("CPU", "GPU"), self.need, strict=True) if n]
        more = int(min(ratios) + 1e-9)
        return self._largest(min(self.cluster.slots(self.need), len(self.workers) + more))

    def gather(self, size: int, visible: Path, stop_asked: Callable[[], bool]) -> list[Any]:
        """So many workers that answer and see the file `visible`: those of the last attempt, and new ones.

        Returns early once a stop is asked for, with workers that may not answer yet.

        Raises Failure when they get no place in time, UserError when the file is not on storage that all share.
        """
        import ray

        for worker in self.workers[size:]:
            self.discard(worker)
        self.workers += [start_worker(RankWorker, self.need) for _ in range(size - len(self.workers))]
        answers = [worker.sees.remote(str(visible.resolve())) for worker in self.workers]
        deadline, waiting = time.monotonic() + _START_SECONDS, answers
        while waiting and time.monotonic() < deadline:
            if stop_asked():
                return list(self.workers)
            _, waiting = ray.wait(answers, num_returns=size, timeout=_TICK_SECONDS)
        if waiting:
            raise Failure(f"{len(waiting)} of {size} workers with {self.need} each got no place on the cluster.")
        if not all(ray.get(answers)):
            raise UserError(
                f"{str(visible.parent)!r} cannot be seen from every machine; put --out on storage that all share, "
                f"or send the whole command to the cluster with lab submit."
            )
        return list(self.workers)

    def discard(self, worker: Any) -> None:
        """End a worker's process."""
        import ray

        if worker in self.workers:
            self.workers.remove(worker)
            ray.kill(worker)

    def discard_all(self) -> None:
        for worker in list(self.workers):
            self.discard(worker)

    def _largest(self, slots: int) -> int:
        return max((size for size in self.sizes if size <= slots), default=0)
