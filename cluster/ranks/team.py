"""One experiment on several workers: Ray actors, a rank each, that run `lab.train` on their shares of it.

    lab train vae/mnist trainer.num_workers=4 trainer.min_workers=2

Batch sizes and numbers of environments are those of all workers together, so that the number of workers changes how
fast an experiment goes and not what it is (lab/ranks/ranks.py). The run directory holds the run's whole state: when a
worker fails, all ranks begin again at its newest checkpoint, with as many workers as there is room for then. Workers
are plain actors, like a sweep's: those that survive keep their process and imports, so a new start takes seconds.

The ranks talk by torch.distributed, through the loopback interface within one machine (where sums on a CPU go through
shared memory), else through a TCP port of the first worker's machine, which belongs on a private network.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.ranks.rank import RankOutcome
from cluster.ranks.roster import Roster
from cluster.ranks.signs_of_life import last_sign, modified
from cluster.ranks.worker import Outcome, is_true
from cluster.session import cores
from cluster.session.error_lines import last_line
from cluster.session.session import Resources, Session, current_session
from lab.config import serialization
from lab.errors import Failure, UserError
from lab.experiment import Experiment
from lab.launchers import register_launcher
from lab.ranks import shares
from lab.runs.directory import Run
from lab.training.progress import Progress
from lab.training.signals import stop_on_signals
from lab.training.status import Status
from lab.training.train import Result

_TICK_SECONDS = 0.25
_FOLLOW_SECONDS = 15.0  # for the other ranks to notice that one has failed
_HANG_SECONDS = 900.0  # without a sign of life
_ROOM_SECONDS = 300.0  # to wait for room after a failure
_STOP_SECONDS = 60.0  # for a run that was asked to stop to end by itself
_WIDEN_SECONDS = 20.0  # between looks for more room
_MAX_FAILURES = 3  # in a row, without a new checkpoint
_DIED = "died"


@register_launcher("workers")
def train(
    experiment: Experiment,
    run_dir: Path | None,
    root: Path | None,
    resume: Run | None,
    progress: Progress | None,
    callbacks: Sequence[Any],
    on_loop: Callable[[Any], None] | None,
) -> Result:
    """`lab.train` by `trainer.num_workers` workers, on the cluster that is connected, or else a private one.

    Raises:
        UserError: when sizes cannot be divided, the cluster is too small, or a worker finds bad input.
        Failure: when workers fail again and again, or one fails in a way that would repeat itself.
    """
    if callbacks:
        raise ValueError("Lightning callbacks cannot be sent to workers")
    sizes = _sizes(experiment)
    with current_session() as cluster:
        team = Team(cluster, experiment, sizes, progress)
        team.run = resume or Run.create(experiment, run_dir, root)
        if on_loop is not None:
            on_loop(team)
        status = team.train()
    if not (team.run.path / "result.json").is_file():
        return Result(team.run, status, {}, None)  # stopped while its workers started
    result = team.run.result()
    return Result(team.run, status, result["metrics"], result["best"])


class Team:
    """The workers of a run, and what is done when they fail. Raises UserError when there is no room for them."""

    def __init__(
        self, cluster: Session, experiment: Experiment, sizes: Sequence[int], progress: Progress | None
    ) -> None:
        self.experiment, self.progress = experiment, progress
        self.run: Run
        with_gpus = experiment.trainer.device != "cpu" and any(node.gpus for node in cluster.nodes())
        self.need = Resources(experiment.trainer.num_threads or 1, 1 if with_gpus else 0)
        self.private, self.roster = cluster.private, Roster(cluster, self.need, sizes)
        if not self.roster.room():
            nodes = ", ".join(map(str, cluster.nodes()))
            raise UserError(
                f"trainer.num_workers={sizes[-1]} needs {self.need} for each worker; the cluster has {nodes}, room for "
                f"{cluster.slots(self.need)}. A lower trainer.num_workers, or trainer.min_workers, goes on with less."
            )
        self._stop_asked = threading.Event()
        self._stop_by = float("inf")
        self._widening = False
        self._shown = False

    def ask_to_stop(self) -> None:
        """End the run after the current chunk, saved and resumable; without waiting for it, where it takes a minute."""
        self._stop_by = min(self._stop_by, time.time() + _STOP_SECONDS)
        self._stop_asked.set()

    def abandon(self) -> bool:
        """The team does that by itself, with its workers."""
        return False

    def train(self) -> str:
        """Work until the run has ended or was stopped; returns its status."""
        failures = 0
        try:
            with stop_on_signals(self._on_signal):
                while True:
                    saved_at = modified(self._checkpoint)
                    ending = self._attempt(self._wait_for_room())
                    if ending.outcome.status == "failed":
                        failures = 0 if modified(self._checkpoint) > saved_at else failures + 1
                        self._judge(ending, failures)
                    elif ending.outcome.status == "completed" or not self._widening:
                        return ending.outcome.status
        finally:
            self.roster.discard_all()
            self._show(last=True)

    # ------------------------------------------------------------------ one attempt

    def _attempt(self, size: int) -> RankOutcome:
        """Train with `size` workers until they have ended, one of them fails, or a stop was asked for."""
        import ray

        self._widening, failed, began = False, None, time.time()
        with tempfile.TemporaryDirectory(prefix="lab-ranks-") as folder:
            try:
                workers = self.roster.gather(size, self.run.path / "experiment.yaml", self._stop_asked.is_set)
                if self._stop_asked.is_set():
                    return RankOutcome(Outcome("interrupted"))
                pending = self._begin(workers, folder)
            except (ray.exceptions.RayActorError, Failure) as error:
                self.roster.discard_all()
                reason = f"the workers did not start: {last_line(error)}"
                return RankOutcome(Outcome("failed", reason, worth_retrying=True))
            outcome, deadline, look = RankOutcome(Outcome("interrupted")), float("inf"), time.time() + _WIDEN_SECONDS
            while pending:
                stop = workers[0].stop.remote() if self._stop_asked.is_set() or self._widening else None
                done, _ = ray.wait(list(pending), timeout=_TICK_SECONDS)
                for reference in done:
                    rank, worker = pending.pop(reference)
                    outcome = self._outcome(reference, rank, worker)
                    if outcome.outcome.status == "failed":
                        deadline = min(deadline, time.time() + _FOLLOW_SECONDS)
                        cause = not outcome.outcome.worth_retrying or outcome.outcome.error.endswith(_DIED)
                        failed = outcome if failed is None or cause else failed  # not what the others say of it
                if time.time() > look and failed is None:
                    look = time.time() + _WIDEN_SECONDS
                    self._widening = self._widening or self.roster.room_to_widen() > size
                abandoned = stop is not None and failed is None and is_true(stop)
                if abandoned or time.time() > self._stop_by:
                    self.roster.discard_all()
                    break
                if self._silence(began) > _HANG_SECONDS and failed is None:
                    failed, deadline = RankOutcome(Outcome("failed", "no sign of life", worth_retrying=True)), 0.0
                if time.time() > deadline:
                    for _, worker in pending.values():
                        self.roster.discard(worker)
                    pending.clear()
                self._show()
        if failed is not None and self.need.gpus:  # what a failed collective leaves on a GPU is not to be built upon
            self.roster.discard_all()
        return failed or outcome

    def _begin(self, workers: Sequence[Any], folder: str) -> dict[Any, tuple[int, Any]]:
        """Let each worker train as one rank; returns their ranks and workers by the references to their outcomes."""
        import ray

        nodes = {ray.get_runtime_context().get_node_id(), *ray.get([each.node.remote() for each in workers])}
        meeting = f"file://{folder}/meeting" if len(nodes) == 1 else ray.get(workers[0].meeting_point.remote())
        tree, path, size = serialization.dump(self.experiment), str(self.run.path.resolve()), len(workers)
        own_cores = cores.divided(size) if self.private and not self.need.gpus else [None] * size
        return {
            worker.train_rank.remote(tree, path, meeting, rank, size, own_cores[rank]): (rank, worker)
            for rank, worker in enumerate(workers)
        }

    def _outcome(self, reference: Any, rank: int, worker: Any) -> RankOutcome:
        import ray

        try:
            outcome: RankOutcome = ray.get(reference)
            return outcome
        except ray.exceptions.RayActorError:
            self.roster.discard(worker)
            return RankOutcome(Outcome("failed", f"worker {rank} {_DIED}", worth_retrying=True))

    def _judge(self, ending: RankOutcome, failures: int) -> None:
        """Say that the run goes on after a failure, or raise when that cannot help."""
        error = ending.outcome.error
        if ending.bad_input:
            raise UserError(error)
        if self._stop_asked.is_set() or not ending.outcome.worth_retrying or failures >= _MAX_FAILURES:
            raise Failure(error)
        place = "from its last checkpoint" if self._checkpoint.is_file() else "from its start"
        self._say(f"{error}; the run goes on {place}")

    @property
    def _checkpoint(self) -> Path:
        return self.run.checkpoints / "last.ckpt"

    def _wait_for_room(self) -> int:
        """The number of workers to go on with. Raises Failure when there is no room for long."""
        deadline = time.time() + _ROOM_SECONDS
        while not (size := self.roster.room()):
            if time.time() > deadline or self._stop_asked.is_set():
                raise Failure(
                    f"there is no room for {self.roster.sizes[0]} workers with {self.need} each any more; "
                    f"the run is saved: lab resume {self.run.path} goes on."
                )
            time.sleep(_TICK_SECONDS)
        return size

    # ------------------------------------------------------------------ for a person

    def _silence(self, began: float) -> float:
        return time.time() - max(began, last_sign(self.run.path))

    def _say(self, text: str) -> None:
        with (self.run.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} WARNING {text}\n")
        if self.progress is not None:
            print(f"{self.run.path}: {text}", file=sys.stderr)

    def _show(self, last: bool = False) -> None:
        """Let the progress display see what the first rank has written."""
        if self.progress is None:
            return
        try:
            result = self.run.result()
        except (UserError, AttributeError):
            return
        status = Status(
            name=self.experiment.name,
            seed=self.experiment.seed,
            path=self.run.path,
            device=f"{self.experiment.trainer.num_workers} workers",
            counter=result["counter"],
            count=result[result["counter"]],
            budget=result["budget"],
            seconds=result["seconds"],
            metrics=result["metrics"],
            monitored=result["monitor"]["metric"],
        )
        if not self._shown:
            self._shown = True
            self.progress.start(status)
        self.progress.update(status)
        if last:
            self.progress.stop()

    def _on_signal(self, number: int, frame: Any) -> None:
        """SIGTERM and the first Ctrl-C end the run after the current chunk; a second Ctrl-C ends it at once."""
        if number == signal.SIGINT and self._stop_asked.is_set():
            raise KeyboardInterrupt
        self.ask_to_stop()


def _sizes(experiment: Experiment) -> list[int]:
    """The numbers of workers, ascending, to go on with. Raises UserError when num_workers cannot divide the sizes."""
    trainer = experiment.trainer
    shares.share(experiment, trainer.num_workers)
    sizes = []
    for size in range(trainer.min_workers or trainer.num_workers, trainer.num_workers + 1):
        with contextlib.suppress(UserError):
            shares.share(experiment, size)
            sizes.append(size)
    return sizes
