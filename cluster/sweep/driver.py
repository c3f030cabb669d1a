"""The driver's loop: keeps workers busy with the runs of a sweep, notices what dies or hangs, and retries it.

Plain Ray actors rather than Tune trials: a run's own directory already holds its exact state, so nothing has to be
reported, checkpointed a second time, or restored from the driver's memory; a worker takes the next run as soon as it
has ended one; and a stop asks each run to save itself before its process goes.
"""

from __future__ import annotations

import time
from typing import Any

from cluster.ranks.worker import Outcome, Worker, is_true, start_worker
from cluster.session.error_lines import last_line
from cluster.session.session import Resources, Session
from cluster.sweep import demand
from cluster.sweep.display import Display, RunProgress
from cluster.sweep.hangs import Attempt, HangWatch
from cluster.sweep.search.base import Search
from cluster.sweep.sweep import Sweep, SweepEntry
from lab.config import serialization
from lab.errors import Failure, UserError
from lab.training.signals import stop_on_signals

_TICK_SECONDS = 0.5
_SAVE_SECONDS = 60.0
_MAX_BROKEN_STARTS = 3


class Driver:
    """Runs the waiting entries of a sweep on a cluster.

    Args:
        fixed: overrides that all runs share.
        search: proposes entries, lets runs wait for one another, and stops them early.

    Raises UserError when no run fits on any machine of the cluster.
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
        self._attempts: dict[Any, Attempt] = {}
        self._hangs = HangWatch(cluster, sweep, self.need, display.note)
        self._stop_signals = 0
        self._broken_starts = 0
        self._judged: set[int] = set()

    def run(self) -> bool:
        """Work until every run has ended. Returns False when interrupted: what ran is saved and waits to be resumed."""
        try:
            with stop_on_signals(self._on_signal):
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
            if not self._attempts:
                break
            done, _ = ray.wait(list(self._attempts), timeout=_TICK_SECONDS)
            for reference in done:
                self._finish(reference)
            self._watch()
            self._show()
        self._save_all()
        self._show()

    def _assign(self) -> None:
        self.slots = max(1, self.cluster.possible(self.need))
        free = self.slots - sum(attempt.slots for attempt in self._attempts.values())
        waiting = self._waiting()
        if len(waiting) < free:
            self.sweep.entries += self.search.propose(free - len(waiting))
            waiting = self._waiting()
        for entry in waiting:
            if self._has_ended(entry):
                entry.status = "completed"
                continue
            slots = demand.slots_of(self.sweep.experiment(entry, self.fixed), self.need, self.slots, self.cluster)
            if slots > free:
                break
            free -= slots
            self._start(entry, slots)
        for worker in self._idle[max(free, 0) :]:
            self._discard(worker)
        self.sweep.save()

    def _waiting(self) -> list[SweepEntry]:
        return [entry for entry in self.sweep.entries if entry.status == "waiting"]

    def _has_ended(self, entry: SweepEntry) -> bool:
        """Whether a run has reached its budget, which a driver that was killed may not have recorded."""
        result = self.sweep.result(entry)
        if not result or result["status"] != "completed":
            return False
        budget: int = self.sweep.experiment(entry, self.fixed).trainer.budget
        return bool(result["budget"] >= budget)

    def _start(self, entry: SweepEntry, slots: int) -> None:
        experiment = self.sweep.experiment(entry, self.fixed)
        pause_at = self.search.pause_at(entry, experiment.trainer.budget)
        several = experiment.trainer.num_workers > 1
        if pause_at is not None and several:
            raise UserError("--search pbt trains each run in one process: trainer.num_workers must be 1.")
        if several:
            worker = start_worker(Worker, Resources(0, 0))  # it only drives its ranks, which have workers of their own
        else:
            worker = self._idle.pop() if self._idle else start_worker(Worker, self.need)
        entry.status, entry.attempts, entry.error = "running", entry.attempts + 1, ""
        reference = worker.train.remote(serialization.dump(experiment), str(self.sweep.run_path(entry)), pause_at)
        self._attempts[reference] = Attempt(worker, entry, time.time(), worker.identity.remote(), slots)

    def _finish(self, reference: Any) -> None:
        import ray

        attempt = self._attempts.pop(reference)
        try:
            outcome: Outcome = ray.get(reference)
            self._broken_starts = 0
        except ray.exceptions.RayError as error:
            self._broken_starts += self.sweep.result(attempt.entry) is None
            if self._broken_starts >= _MAX_BROKEN_STARTS:
                raise Failure(f"workers end before they train anything: {last_line(error)}") from None
            outcome = Outcome("failed", self._hangs.reason(attempt.entry, error), worth_retrying=True)
        if outcome.status == "unseen":
            raise UserError(
                f"{str(self.sweep.path)!r} cannot be seen from {outcome.error!r}; put --out on storage that all "
                f"machines share, or send the whole command to the cluster with lab submit."
            )
        if outcome.status == "failed":
            self._discard(attempt.worker)
            self._failed(attempt.entry, outcome)
            return
        if self.sweep.experiment(attempt.entry, self.fixed).trainer.num_workers == 1:
            self._idle.append(attempt.worker)
        else:
            self._discard(attempt.worker)
        early = attempt.entry.index in self._judged
        attempt.entry.status = (
            outcome.status if outcome.status != "interrupted" else ("stopped" if early else "waiting")
        )
        if not self.display.quiet and attempt.entry.ended and not self.display.console.is_terminal:
            self.display.note(self.display.line(self._progress(attempt.entry)))

    def _failed(self, entry: SweepEntry, outcome: Outcome) -> None:
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

    def _where(self, entry: SweepEntry) -> str:
        saved = any((self.sweep.run_path(entry) / "checkpoints").glob("last.ckpt"))
        return "from its last checkpoint" if saved else "from its start"

    def _watch(self) -> None:
        """End what hangs, stop early what the search has judged."""
        for reference, attempt in list(self._attempts.items()):
            entry = attempt.entry
            if not self._hangs.has_machine(attempt, len(self._attempts)):
                self._attempts[reference] = attempt._replace(started=time.time())
            elif not self._hangs.end_if_hanging(attempt):
                result = self.sweep.result(entry)
                if result and entry.index not in self._judged and self.search.judge(entry, result):
                    self._judged.add(entry.index)
                    attempt.worker.stop.remote()

    def _save_all(self) -> None:
        """Ask every run to save and end, and wait for that, at most a minute; another signal cuts it short."""
        import ray

        if self._attempts:
            self.display.note("stopping: every run saves itself (press Ctrl-C again to leave at once)")
        deadline, signals = time.monotonic() + _SAVE_SECONDS, self._stop_signals
        while self._attempts and time.monotonic() < deadline and self._stop_signals == signals:
            stops = {attempt.worker.stop.remote(): reference for reference, attempt in self._attempts.items()}
            done, _ = ray.wait(list(self._attempts), timeout=_TICK_SECONDS)
            for reference in done:
                self._finish(reference)
            for stop, reference in stops.items():
                if reference in self._attempts and is_true(stop):
                    self._abandon(reference)
        for attempt in self._attempts.values():
            attempt.entry.status = "waiting"
        self.sweep.save()

    def _abandon(self, reference: Any) -> None:
        """End the process of a run that is saved, in the middle of a chunk."""
        attempt = self._attempts.pop(reference)
        self._discard(attempt.worker)
        attempt.entry.status = "waiting"

    def _show(self) -> None:
        self.display.update([self._progress(entry) for entry in self.sweep.entries])

    def _progress(self, entry: SweepEntry) -> RunProgress:
        return RunProgress(entry.folder, entry.status, None if entry.status == "waiting" else self.sweep.result(entry))

    # ------------------------------------------------------------------ workers

    def _discard(self, worker: Any) -> None:
        import ray

        if worker in self._idle:
            self._idle.remove(worker)
        ray.kill(worker)

    def _kill_all(self) -> None:
        for worker in [*self._idle, *(attempt.worker for attempt in self._attempts.values())]:
            self._discard(worker)
        self._attempts.clear()

    def _on_signal(self, number: int, frame: Any) -> None:
        """The first signal ends the sweep saved, the second without waiting for all, the third at once."""
        self._stop_signals += 1
        if self._stop_signals > 2:
            raise KeyboardInterrupt
