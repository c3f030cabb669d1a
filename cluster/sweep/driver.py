"""The driver's loop: keeps workers busy with the runs of a sweep, notices what dies or hangs, and retries it.

Plain Ray actors rather than Tune trials: a run's own directory already holds its exact state, so nothing has to be
reported, checkpointed a second time, or restored from the driver's memory; a worker takes the next run as soon as it
has ended one; and a stop asks each run to save itself before its process goes.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cluster.session.session import Resources, Session
from cluster.sweep import demand
from cluster.sweep.display import Display, Row
from cluster.sweep.search.base import Search
from cluster.sweep.sweep import Entry, Sweep
from cluster.sweep.worker import Outcome, Worker, last_words
from lab import catalog
from lab.config import serialization
from lab.errors import Failure, UserError

_TICK_SECONDS = 0.5
_SAVE_SECONDS = 60.0
_START_SECONDS = 600.0  # for imports, data sets and networks, before a run gives its first sign of life
_MAX_BROKEN_STARTS = 3


class _Job(NamedTuple):
    worker: Any
    entry: Entry
    started: float
    up: Any
    """resolves when the worker's process is there"""
    shares: int
    """how many of the slots it takes"""


class Pool:
    """Runs the waiting entries of a sweep on a cluster.

    Args:
        fixed: overrides that all runs share.
        search: proposes entries, lets runs wait for one another, and stops them early.
    """

    def __init__(
        self,
        cluster: Session,
        sweep: Sweep,
        display: Display,
        fixed: tuple[str, ...],
        search: Search,
    ) -> None:
        self.cluster, self.sweep, self.display, self.fixed, self.search = cluster, sweep, display, fixed, search
        search.say = display.note
        settings = sweep.settings
        self.need = Resources(settings.cpus_per_run, settings.gpus_per_run)
        self.slots = cluster.require(self.need, "each run")
        self._idle: list[Any] = []
        self._jobs: dict[Any, _Job] = {}
        self._stop_signals = 0
        self._broken_starts = 0
        self._said_waiting = False
        self._judged: set[int] = set()
        self._silence: dict[int, float] = {}

    def run(self) -> bool:
        """Work until every run has ended. Returns False when interrupted: what ran is saved and waits to be resumed."""
        try:
            with self._signals():
                self.search.prepare()
                self._loop()
        finally:
            self._kill_all()
        return not self._stop_signals

    # ------------------------------------------------------------------ the loop

    def _loop(self) -> None:
        import ray

        while not self._stop_signals:
            self._assign()
            if not self._jobs:
                break
            done, _ = ray.wait(list(self._jobs), timeout=_TICK_SECONDS)
            for reference in done:
                self._finish(reference)
            self._watch()
            self._show()
        self._save_all()
        self._show()

    def _assign(self) -> None:
        self.slots = max(1, self.cluster.possible(self.need))
        free = self.slots - sum(job.shares for job in self._jobs.values())
        waiting = self._waiting()
        if len(waiting) < free:
            self.sweep.entries += self.search.propose(free - len(waiting))
            waiting = self._waiting()
        for entry in waiting:
            if self._has_ended(entry):
                entry.status = "completed"
                continue
            shares = demand.shares(self.sweep.experiment(entry, self.fixed), self.need, self.slots, self.cluster)
            if shares > free:
                break
            free -= shares
            self._start(entry, shares)
        for worker in self._idle[max(free, 0) :]:
            self._discard(worker)
        self.sweep.save()

    def _waiting(self) -> list[Entry]:
        return [entry for entry in self.sweep.entries if entry.status == "waiting"]

    def _has_ended(self, entry: Entry) -> bool:
        """Whether a driver that was killed did not live to write down that a run had reached its budget."""
        result = self.sweep.result(entry)
        if not result or result["status"] != "completed":
            return False
        budget: int = self.sweep.experiment(entry, self.fixed).trainer.budget
        return bool(result["budget"] >= budget)

    def _start(self, entry: Entry, shares: int) -> None:
        experiment = self.sweep.experiment(entry, self.fixed)
        pause_at = self.search.pause_at(entry, experiment.trainer.budget)
        several = experiment.trainer.num_workers > 1
        if pause_at is not None and several:
            raise UserError("--search pbt trains each run in one process: trainer.num_workers must be 1.")
        if several:
            worker = self._new_worker(Resources(0, 0))  # it only conducts its ranks, which have workers of their own
        else:
            worker = self._idle.pop() if self._idle else self._new_worker(self.need)
        entry.status, entry.attempts, entry.error = "running", entry.attempts + 1, ""
        reference = worker.train.remote(serialization.dump(experiment), str(self.sweep.run_path(entry)), pause_at)
        self._jobs[reference] = _Job(worker, entry, time.time(), worker.identity.remote(), shares)

    def _finish(self, reference: Any) -> None:
        import ray

        job = self._jobs.pop(reference)
        try:
            outcome: Outcome = ray.get(reference)
            self._broken_starts = 0
        except ray.exceptions.RayError as error:
            self._broken_starts += self.sweep.result(job.entry) is None
            if self._broken_starts >= _MAX_BROKEN_STARTS:
                raise Failure(f"workers end before they train anything: {last_words(error)}") from None
            silence = self._silence.pop(job.entry.index, None)
            outcome = Outcome("failed", _reason(error, silence), worth_retrying=True)
        if outcome.status == "unseen":
            raise UserError(
                f"{str(self.sweep.path)!r} cannot be seen from {outcome.error!r}; put --out on storage that all "
                f"machines share, or send the whole command to the cluster with lab submit."
            )
        if outcome.status == "failed":
            self._discard(job.worker)
            self._failed(job.entry, outcome)
            return
        if self.sweep.experiment(job.entry, self.fixed).trainer.num_workers == 1:
            self._idle.append(job.worker)
        else:
            self._discard(job.worker)
        early = job.entry.index in self._judged
        job.entry.status = outcome.status if outcome.status != "interrupted" else ("stopped" if early else "waiting")
        if not self.display.quiet and job.entry.ended and not self.display.console.is_terminal:
            self.display.note(self.display.line(self._row(job.entry)))

    def _failed(self, entry: Entry, outcome: Outcome) -> None:
        settings = self.sweep.settings
        again = outcome.worth_retrying and entry.attempts <= settings.retries
        entry.status, entry.error = ("waiting", "") if again else ("failed", outcome.error)
        if again:
            self.display.note(
                f"{entry.folder}: {outcome.error}; it goes on {self._where(entry)} "
                f"(attempt {entry.attempts + 1} of {settings.retries + 1})"
            )
        else:
            self.display.note(f"{entry.folder}: failed: {outcome.error}")

    def _where(self, entry: Entry) -> str:
        saved = any((self.sweep.run_path(entry) / "checkpoints").glob("last.ckpt"))
        return "from its last checkpoint" if saved else "from its start"

    def _watch(self) -> None:
        """End what hangs, stop early what the search has judged."""
        import ray

        for reference, job in list(self._jobs.items()):
            if not self._has_machine(job):
                self._jobs[reference] = job._replace(started=time.time())
                continue
            path = self.sweep.run_path(job.entry)
            seen = max(_modified(path / name) for name in ("result.json", "metrics.jsonl", "log.txt"))
            limit = self.sweep.settings.hang_seconds + (0 if seen > job.started else _START_SECONDS)
            silence = time.time() - max(seen, job.started)
            if silence > limit:
                self._silence[job.entry.index] = silence
                ray.kill(job.worker)
                continue
            result = self.sweep.result(job.entry)
            if result and job.entry.index not in self._judged and self.search.judge(job.entry, result):
                self._judged.add(job.entry.index)
                job.worker.stop.remote()

    def _has_machine(self, job: _Job) -> bool:
        """Whether a job's worker runs, or there is room for it to start; else it waits for a machine."""
        import ray

        if ray.wait([job.up], timeout=0)[0] or self.cluster.slots(self.need) >= len(self._jobs):
            return True
        if not self._said_waiting:
            self._said_waiting = True
            self.display.note(f"waiting for a machine with {self.need} free; the cluster has {self.cluster}")
        return False

    def _save_all(self) -> None:
        """Ask every run to save and end, and wait for that, at most a minute; another signal cuts it short."""
        import ray

        if self._jobs:
            self.display.note("stopping: every run saves itself (press Ctrl-C again to leave at once)")
        deadline, signals = time.monotonic() + _SAVE_SECONDS, self._stop_signals
        while self._jobs and time.monotonic() < deadline and self._stop_signals == signals:
            for job in self._jobs.values():
                job.worker.stop.remote()
            done, _ = ray.wait(list(self._jobs), timeout=_TICK_SECONDS)
            for reference in done:
                self._finish(reference)
        for job in self._jobs.values():
            job.entry.status = "waiting"
        self.sweep.save()

    def _show(self) -> None:
        self.display.update([self._row(entry) for entry in self.sweep.entries])

    def _row(self, entry: Entry) -> Row:
        return Row(entry.folder, entry.status, None if entry.status == "waiting" else self.sweep.result(entry))

    # ------------------------------------------------------------------ workers

    def _new_worker(self, takes: Resources) -> Any:
        import ray

        options: dict[str, Any] = {
            "num_cpus": takes.cpus,
            "num_gpus": takes.gpus,
            "max_concurrency": 2,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        actor: Any = ray.remote(**options)(Worker)
        paths = [str(Path.cwd()), *(path for path in sys.path if path)]
        return actor.remote(paths, catalog.allowed_imports(), takes.gpus)

    def _discard(self, worker: Any) -> None:
        import ray

        if worker in self._idle:
            self._idle.remove(worker)
        ray.kill(worker)

    def _kill_all(self) -> None:
        for worker in [*self._idle, *(job.worker for job in self._jobs.values())]:
            self._discard(worker)
        self._jobs.clear()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def handle(number: int, frame: Any) -> None:
            self._stop_signals += 1
            if self._stop_signals > 2:
                raise KeyboardInterrupt

        previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _reason(error: Exception, silence: float | None) -> str:
    """Why a worker is gone, in a few words."""
    import ray

    if silence is not None:
        return f"it gave no sign of life for {silence:.0f} s"
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in str(error):
        return "its worker was ended for want of memory on its machine"
    return "its worker died"


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
