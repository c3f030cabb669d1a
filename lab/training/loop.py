"""The conductor of a run: after each chunk metrics, evaluation, checkpoints, the end, each when it is due.

All schedules follow the module's own counter (environment steps or samples), so that they survive a resume.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lab.config import serialization
from lab.data.module import LabDataModule
from lab.engine.schedules import Stagnation
from lab.experiment import Experiment
from lab.lightning import Callback, Trainer
from lab.long_work import listening
from lab.ranks import collectives, ranks, shared_noise
from lab.runs.directory import Run
from lab.runs.files import write_atomic
from lab.runs.tracking import Tracker
from lab.training.evaluation import Evaluator
from lab.training.health.health import Health
from lab.training.learner import Learner
from lab.training.recording import Recorder
from lab.training.saving import Best, Saver
from lab.training.status import Observer, Status

log = logging.getLogger("lab")

_PATIENCE_SECONDS = 4.0
"""how long a signal waits for the chunk in progress, and from how long a chunk on the one before it is saved"""
_AGAIN_SECONDS = 1.0
LEARNED = "all that it can learn is learned"
"""the reason for which a run ends whose module is complete"""
_ROUNDING = 1e-9
_SHARE_OF_SAVING = 0.1
"""of a long chunk's time that saving after each of them may take"""


class _Agreement(NamedTuple):
    """What all ranks take for true after a chunk."""

    stop: bool
    out_of_time: bool
    save: bool


class _EvaluationEnded(BaseException):
    """An evaluation is given up, since the run is to stop."""


class ChunkGivenUp(BaseException):
    """The chunk in progress is given up, since it takes long and the run is to stop; what was before it is saved."""


class RunLoop(Callback):
    """Calls the parts of a run between its chunks.

    Of several ranks the first evaluates and writes for all; counters are those of all.

    Args:
        observers: see the run's status at its start, after each chunk and at its end.
        on_evaluation: called with the counters and the latest value of each metric after each evaluation.
    """

    def __init__(
        self,
        experiment: Experiment,
        run: Run,
        data: LabDataModule,
        tracker: Tracker,
        observers: Sequence[Observer] = (),
        on_evaluation: Callable[[dict[str, float]], Any] | None = None,
    ) -> None:
        self.experiment, self.run, self.data = experiment, run, data
        self.observers, self.on_evaluation = observers, on_evaluation
        trainer = experiment.trainer
        self.budget = trainer.budget
        self.eval_period = trainer.eval_period or max(1, trainer.budget // 20)
        self.log_period = trainer.log_period or max(1, trainer.budget // 200)
        self.writes = ranks.rank() == 0
        self.health = Health(self.eval_period) if trainer.diagnostics and self.writes else None
        self.evaluator = Evaluator(run, data, experiment.seed, self.health)
        self.saver = Saver(experiment, run, data)
        self.recorder = Recorder(experiment, run, tracker)
        self.status = "running"
        self.reason: str | None = None
        """why a completed run ended before its budget, where that is not the time"""
        self.pause_at: int | None = None
        """the count at which the run saves itself and ends, resumable"""
        self.best: Best = None
        self.saved = False
        """whether there is a last checkpoint"""
        self.state: dict[str, Any] = {
            "next_eval": self.eval_period,
            "evaluation_due": False,
            "stagnation": tuple(Stagnation()),
            "next_log": self.log_period,
            "seconds": 0.0,
            "begun_with": [],
        }
        self._resume_from: dict[str, Any] | None = None
        self._counted: dict[str, int] = {}
        self._num_snapshots = 0
        """how many cycles have ended"""
        self._stop_asked = threading.Event()
        self._impatient = False
        self._patience: threading.Timer | None = None
        self._chunk_lock = threading.Lock()
        self._module: Any = None
        """the learner, once it has begun"""
        self._in_chunk = False
        self.gave_up = False
        """whether a chunk was given up; nothing of it is counted or saved"""
        self._can_give_up = True
        """whether all before the chunk in progress is saved"""
        self._clock = self._last_save = self._save_seconds = 0.0

    # ------------------------------------------------------------------ for the caller

    def resume_from(self, content: dict[str, Any]) -> None:
        """Continue from a `last` checkpoint when the fit starts."""
        self._resume_from = content

    def begin_anew(self) -> None:
        """Begin a run that was killed before its first checkpoint, by the experiment as it is now."""
        self.recorder.begin_anew()
        self.saver.tell_changes(serialization.dump(self.run.experiment()))
        self._write_experiment()

    def ask_to_stop(self) -> None:
        """End the run after the current chunk, or in the middle of an evaluation, saved and resumable."""
        self._stop_asked.set()

    def on_signal(self, number: int, frame: Any) -> None:
        """The handler of SIGTERM and SIGINT; a second SIGINT ends the run at once.

        Raises ChunkGivenUp when a chunk is still in progress some seconds later, if a resumed run can repeat it.
        """
        if number == signal.SIGINT and self._stop_asked.is_set():
            raise KeyboardInterrupt
        asked_before = self._stop_asked.is_set()
        self.ask_to_stop()
        if not asked_before and ranks.num_ranks() == 1:
            self._be_patient(_PATIENCE_SECONDS)
        if self._impatient and self._in_chunk and self._can_give_up:
            self.gave_up = True
            self._be_patient(_AGAIN_SECONDS)  # whoever caught everything in this chunk is interrupted again
            raise ChunkGivenUp

    def _be_patient(self, seconds: float) -> None:
        self._patience = threading.Timer(seconds, self._end_patience)
        self._patience.daemon = True
        self._patience.start()

    def _end_patience(self) -> None:
        self._impatient = True
        with self._chunk_lock:
            if self._in_chunk:
                os.kill(os.getpid(), signal.SIGTERM)

    def leave(self) -> None:
        """Training is over, however it ended: no signal comes any more from here."""
        self._in_chunk = False
        with self._chunk_lock:  # nor one that is being sent
            pass
        if self._patience is not None:
            self._patience.cancel()

    def give_up_chunk(self) -> None:
        """End as at the end of the chunk before."""
        self.status = "interrupted"
        log.info("the chunk in progress was given up; a resumed run repeats it")

    def abandon(self) -> bool:
        """Give the chunk in progress up, and close the run, from another thread of a process that is ended then.

        Returns False, and the run goes on, where a resumed run could not repeat it.
        """
        if self.gave_up or self._module is None:
            return True
        self._chunk_lock.acquire()  # for good: the chunk does not end any more
        if not (self._in_chunk and self._can_give_up):
            self._chunk_lock.release()
            return False
        self.gave_up = True
        self.give_up_chunk()
        self.close(self._module)
        return True

    def close(self, module: Learner[Any], error: str | None = None) -> None:
        """Write the result, end tracking, let go of the files. A run that could not be restored stays as it was."""
        for observer in self.observers:
            observer.stop()
        if self._resume_from is None and self.writes:
            self._write_result(module, error)
        self.recorder.close(module, self.status)

    # ------------------------------------------------------------------ Lightning's hooks

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if signal.getsignal(signal.SIGINT) == self.on_signal:
            signal.signal(signal.SIGTERM, self.on_signal)  # Lightning's own handler may leave a chunk without saving it
        if self._resume_from is None:
            collectives.broadcast_parameters(pl_module)
            shared_noise.separate_generators(self.experiment.seed, trainer.strategy.root_device)
        else:
            self._restore(pl_module, self._resume_from)
            self._resume_from = None
            if self.writes:
                self._write_experiment()
        pl_module.budget = self.budget
        if self.experiment.trainer.snapshots is not None:
            done = pl_module.counters[pl_module.counter] / self.budget
            self._num_snapshots = int(done * self.experiment.trainer.snapshots + _ROUNDING)
            pl_module.on_progress = lambda progress, count: self._take_snapshot(pl_module, progress, count)
        self._last_save = time.perf_counter()
        if self.writes:
            self._write_result(pl_module)
        for observer in self.observers:
            observer.start(self._status(pl_module))
        done = self._is_learned(pl_module) or self._is_stagnant()
        if self.state["evaluation_due"]:
            done = done or self._is_out_of_time()
            self._evaluate(pl_module, last=done)
            done = (done or self._is_stagnant()) and not self.state["evaluation_due"]
            self._save(pl_module)
        if done or self._paused(pl_module) or self.state["evaluation_due"]:
            trainer.should_stop = True
            self._end(pl_module, done=done)
        self._clock = time.perf_counter()
        self._module = pl_module
        self._in_chunk = not trainer.should_stop

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.set_progress(pl_module.counters[pl_module.counter] / self.budget)
        self._counted = dict(pl_module.counters)
        if self.health is not None:
            self.health.begin_chunk(pl_module, self.state["next_eval"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        module: Learner[Any] = pl_module
        with self._chunk_lock:
            self._in_chunk = False
        if self.gave_up:
            raise ChunkGivenUp
        now = time.perf_counter()
        self.state["seconds"] += now - self._clock
        agreed = self._agree(module, now)
        count = module.counters[module.counter]
        if self.health is not None:
            self.health.end_chunk(count - self._counted[module.counter])
        done = self._is_learned(module) or agreed.out_of_time
        stopping = done or agreed.stop or self._paused(module)
        if count >= self.state["next_log"] or stopping:
            self.state["next_log"] = (count // self.log_period + 1) * self.log_period
            metrics = collectives.mean_metrics(outputs or {})
            if self.writes:
                diagnostics = self.health.row(module) if self.health is not None else {}
                self.recorder.add_losses(module, metrics | diagnostics, self.state["seconds"])
        if count >= self.state["next_eval"] or done:
            self.state["next_eval"] = (count // self.eval_period + 1) * self.eval_period
            self._evaluate(module, last=done)
            if self.state["evaluation_due"]:
                stopping, done = True, False
            elif self._is_stagnant():
                stopping = done = True
        self._take_snapshot(module, count / self.budget, count)
        if stopping:
            self._end(module, done=done)
        self._can_give_up = stopping or agreed.save
        if self._can_give_up:
            self._save(module)
        if self.writes and (stopping or self.recorder.result_is_due()):
            self._write_result(module)
        for observer in self.observers:
            observer.update(self._status(module))
        trainer.should_stop = trainer.should_stop or stopping
        self._clock = time.perf_counter()
        self._in_chunk = not trainer.should_stop

    # ------------------------------------------------------------------ the pieces

    def _status(self, module: Learner[Any]) -> Status:
        return Status(
            name=self.experiment.name,
            seed=self.experiment.seed,
            path=self.run.path,
            device=module.device.type,
            counter=module.counter,
            count=module.counters[module.counter],
            budget=self.budget,
            seconds=self.state["seconds"],
            metrics=self.recorder.latest,
            monitored=module.monitor.metric,
        )

    def _paused(self, module: Learner[Any]) -> bool:
        return self.pause_at is not None and module.counters[module.counter] >= self.pause_at

    def _agree(self, module: Learner[Any], now: float) -> _Agreement:
        """Count what all ranks did in this chunk; end, and save, when any of them has a reason to."""
        out_of_time = self._is_out_of_time()
        due = self.writes and (
            now - self._last_save >= self.experiment.trainer.checkpoint_seconds
            or now - self._clock >= max(_PATIENCE_SECONDS, self._save_seconds / _SHARE_OF_SAVING)
        )
        flags = [self._stop_asked.is_set(), out_of_time, due]
        if ranks.num_ranks() == 1:
            return _Agreement(*flags)
        names = [name for name in module.counters if name != "updates"]  # every rank takes part in each update
        done = [module.counters[name] - self._counted[name] for name in names]
        *sums, stop, late, save = collectives.totals([*done, *flags])
        module.counters.update({name: self._counted[name] + int(n) for name, n in zip(names, sums, strict=True)})
        return _Agreement(stop > 0, late > 0, save > 0)

    def _is_learned(self, module: Learner[Any]) -> bool:
        return module.counters[module.counter] >= self.budget or module.is_complete

    def _is_out_of_time(self) -> bool:
        limit = self.experiment.trainer.max_seconds
        return limit is not None and self.state["seconds"] >= limit

    def _stagnation_after(self, module: Learner[Any], value: float) -> Stagnation:
        return Stagnation(*self.state["stagnation"]).after(value, module.monitor.mode)

    def _is_stagnant(self, stagnation: Stagnation | None = None) -> bool:
        """Whether the monitored metric has not improved for so long that the run is to end."""
        patience = self.experiment.trainer.patience
        stagnation = stagnation or Stagnation(*self.state["stagnation"])
        return patience is not None and stagnation.num_evaluations >= patience

    def _end(self, module: Learner[Any], *, done: bool) -> None:
        self.status = "completed" if done else "interrupted"
        if done and self._is_stagnant():
            num_evaluations = self.state["stagnation"][1]
            self.reason = f"{module.monitor.metric} did not improve in {num_evaluations} evaluations (trainer.patience)"
            log.info("%s", self.reason)
        elif done and module.is_complete:
            self.reason = LEARNED
            log.info("%s", self.reason)
        if done and any(average.config.name == "swa" and average.num_averaged < 2 for average in module.averages()):
            log.warning("trainer.average: no two sets of weights were averaged; a smaller start or period takes more.")

    def _evaluate(self, module: Learner[Any], *, last: bool) -> None:
        """Evaluate in the first rank, and let all of them follow what it measured, where something does."""
        self.state["evaluation_due"] = self.writes
        value = self._measure(module, last=last) if self.writes else 0.0
        if value is None or not (module.follows_evaluations or self.experiment.trainer.patience):
            return
        value = collectives.total(value)
        module.follow_evaluation(value)
        self.state["stagnation"] = tuple(self._stagnation_after(module, value))

    def _measure(self, module: Learner[Any], *, last: bool) -> float | None:
        """Evaluate, record it, and return the monitored metric.

        What is given up, since the run is to stop, gives None and stays due: a resumed run begins with it. Of several
        ranks the first cannot stop alone, and evaluates to the end.
        """

        def film(row: dict[str, Any]) -> bool:
            stagnation = self._stagnation_after(module, row[module.monitor.metric])
            return self.experiment.trainer.film and (last or self._is_stagnant(stagnation))

        try:
            with listening(self._hear):
                row = self.evaluator.evaluate(module, film=film)
        except _EvaluationEnded:
            return None
        self.state["evaluation_due"] = False
        self.recorder.add(module, row, self.state["seconds"])
        value = row[module.monitor.metric]
        if module.monitor.better(value, self.best["value"] if self.best else None):
            self.best = {"metric": module.monitor.metric, "value": value, **module.counters}
            self.saver.save_best(module, self.best)
        if self.on_evaluation is not None:
            self.on_evaluation({**module.counters, **self.recorder.latest})
        return float(value)

    def _hear(self, work: str, done: int, total: int) -> None:
        if self._stop_asked.is_set() and ranks.num_ranks() == 1:
            raise _EvaluationEnded
        self.show_work(work, done, total)

    def show_work(self, work: str, done: int, total: int) -> None:
        """Show long work within a chunk (`lab.long_work`)."""
        for observer in self.observers:
            observer.work(work, done, total)

    def _take_snapshot(self, module: Learner[Any], progress: float, count: float) -> None:
        """Keep the weights when a cycle ends, before the first update of the next."""
        num = self.experiment.trainer.snapshots
        number = min(int(progress * num + _ROUNDING), num) if num is not None else 0
        if number > self._num_snapshots:
            self._num_snapshots = number
            if self.writes:
                self.saver.save_snapshot(module, number, count)

    def _write_experiment(self) -> None:
        write_atomic(self.run.path / "experiment.yaml", serialization.to_yaml(self.experiment))

    def _save(self, module: Learner[Any]) -> None:
        began = time.perf_counter()
        loop = self.state | (self.recorder.state() if self.writes else {})
        if self.health is not None:
            loop["health"] = self.health.state_dict()
        self.saver.save_last(module, self.best, loop)
        if self.writes:
            self.recorder.flush(loop)
            if not self.saved:
                self.saved = True
                self._write_result(module)
        collectives.barrier()
        self.data.on_saved()
        self._last_save = time.perf_counter()
        self._save_seconds = self._last_save - began

    def _restore(self, module: Learner[Any], content: dict[str, Any]) -> None:
        self.saver.restore(module, content)
        self.recorder.restore(content["loop"])
        if self.health is not None and "health" in content["loop"]:
            self.health.load_state_dict(content["loop"]["health"])
        self.state |= {key: value for key, value in content["loop"].items() if key in self.state}
        self.best, self.saved = content["best"], True

    def _write_result(self, module: Learner[Any], error: str | None = None) -> None:
        self.recorder.write_result(
            module,
            self._counted if self.gave_up else module.counters,
            status=self.status,
            reason=self.reason,
            error=error,
            budget=self.budget,
            seconds=round(self.state["seconds"], 3),
            best=self.best,
            saved=self.saved,
            begun_with=self.state["begun_with"],
        )
