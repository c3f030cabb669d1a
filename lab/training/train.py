"""train(experiment): the few lines that everything else calls."""

from __future__ import annotations

import logging
import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lab.config.overrides import override
from lab.data.module import LabDataModule
from lab.errors import Failure, UserError
from lab.experiment import Experiment, TrackingConfig
from lab.launchers import launch
from lab.lightning import Callback
from lab.long_work import listening
from lab.quiet import quiet, warnings_in_lines
from lab.ranks import ranks, shares
from lab.ranks.batch_norm import normalize_whole_batches
from lab.runs.directory import Run
from lab.runs.system_use import SystemUse
from lab.runs.tracking import Tracker
from lab.training.devices import build_trainer, resolve_device
from lab.training.learner import Learner
from lab.training.loop import LEARNED, RunLoop
from lab.training.progress import Progress, showing_work
from lab.training.saving import last_checkpoint
from lab.training.signals import stop_on_signals
from lab.training.status import Observer
from lab.training.transfer import begin_backbones
from lab.training.warm_start import Beginning, start_from

log = logging.getLogger("lab")

_NORMALISES_ONE = "Expected more than 1 value per channel when training"
"""what torch says of a batch norm layer that is given one number a channel"""
_UNTRACKED = TrackingConfig(mode="disabled")


class Result(NamedTuple):
    """How a run ended: completed or interrupted (resumable), its metrics, its best evaluation."""

    run: Run
    status: str
    metrics: dict[str, float]
    best: dict[str, Any] | None


@contextmanager
def _tiny_numbers_are_zero() -> Iterator[None]:
    """Numbers below 1e-38 count as 0 while a run trains.

    The moments of units that never fire decay into that range, where many processors take a hundred times as long for
    each operation; 1e-38 changes no weight. It holds for this thread; torch's others begin before, and keep their mode.
    """
    torch.ones(2**20).mul(1)
    before = not torch.full((), 1e-40).mul(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@_tiny_numbers_are_zero()
def train(
    experiment: Experiment,
    *,
    run_dir: Path | None = None,
    root: Path | None = None,
    resume: Run | None = None,
    progress: Progress | bool = False,
    callbacks: Sequence[Callback] = (),
    on_evaluation: Callable[[dict[str, float]], Any] | None = None,
    on_loop: Callable[[Any], None] | None = None,
) -> Result:
    """Train an experiment in a run directory of its own, or go on with the run `resume` from its last checkpoint.

    With `trainer.num_workers` above 1 that is done by processes on a Ray cluster, which each call this as a rank.

    Args:
        run_dir: the run directory; by default a fresh one below `root`, which is LAB_RUNS or ./runs.
        progress: shows what happens in a terminal, a log file or a notebook; True takes one for standard error.
        callbacks: more of Lightning's.
        on_evaluation: called after each evaluation with the counters and the latest value of each metric.
        on_loop: called before training starts with what has `ask_to_stop()` and `abandon()`, the RunLoop.

    Raises:
        UserError: for bad input, before anything is written where that is possible.
        Failure: when the loss is not finite or the disk is full; what was saved before stays resumable.
    """
    shown = (Progress() if progress else None) if isinstance(progress, bool) else progress
    if experiment.trainer.num_workers > 1 and not ranks.is_joined():
        if on_evaluation is not None:
            raise UserError("on_evaluation is called in the process that trains: trainer.num_workers must be 1.")
        result: Result = launch("workers", experiment, run_dir, root, resume, shown, callbacks, on_loop)
        return result
    resolve_device(experiment.trainer.device)
    seed_everything(experiment.seed)
    share = shares.share(experiment, ranks.num_ranks())
    with nullcontext() if shown is None else showing_work(shown.console):
        data = share.data.build(share.seed)
    module = share.module.build(data.spec)
    if experiment.trainer.channels_last:
        module.to(memory_format=torch.channels_last)
    module.set_engine("eager" if normalize_whole_batches(module.modules()) else experiment.trainer.engine)
    if ranks.num_ranks() > 1 and not module.updaters:
        raise UserError(
            f"module.kind={experiment.module.kind!r} has no gradients to average: trainer.num_workers must be 1."
        )
    module.set_average(experiment.trainer.average)
    content = None if resume is None else last_checkpoint(resume)
    beginnings: list[Beginning] = []
    if content is None:
        module.fit_to(data)
        if experiment.trainer.start_from is not None:
            beginnings.append(start_from(module, experiment.trainer.start_from))
        beginnings += begin_backbones(module)
    run = resume or Run.create(experiment, run_dir, root)
    first = ranks.rank() == 0
    if first:
        run.lock()
    try:
        with (
            _log_to(run, shown) if first else nullcontext(),
            warnings_in_lines(),
            quiet("lightning.pytorch", "lightning.fabric", "lightning", module="lightning"),
            _threads(experiment.trainer.num_threads or module.num_threads),
        ):
            for beginning in beginnings:
                log.info("%s", beginning.sentence)
                if shown is not None:
                    shown.note(beginning.sentence)
            sources = [beginning.source for beginning in beginnings]
            return _fit(
                experiment, run, data, module, resume, content, sources, shown, callbacks, on_evaluation, on_loop
            )
    finally:
        run.unlock()
        data.close()


def resume(
    run: Run | Path | str,
    *overrides: str,
    progress: Progress | bool = False,
    callbacks: Sequence[Callback] = (),
    on_evaluation: Callable[[dict[str, float]], Any] | None = None,
) -> Result:
    """Go on with a run exactly where its last checkpoint is.

    Args:
        run: a run, or its directory.
        overrides: fields of the experiment that are to be others from here on, such as `trainer.budget=100_000`.
        progress: as for `train`, and so are the others.

    Raises UserError when there is no such run, an override is not valid, or one is given for a run that is complete.
    """
    run = run if isinstance(run, Run) else Run.open(run, without_result=True)
    experiment = override(run.experiment(), overrides)
    if overrides and (run.path / "result.json").is_file():
        result = run.result()
        if result.get("status") == "completed" and result.get("reason") == LEARNED:
            raise UserError(
                f"run {str(run.path)!r} is complete: {LEARNED}, and {' '.join(overrides)} would change nothing of it. "
                f"lab train begins another run."
            )
        if result.get("reason"):
            field, before, now = "patience", run.experiment().trainer.patience or 0, experiment.trainer.patience
        else:
            field, before, now = "budget", result["budget"], experiment.trainer.budget
        is_over = now is not None and now <= before
        if result.get("status") == "completed" and is_over:
            raise UserError(
                f"run {str(run.path)!r} is complete: {' '.join(overrides)} changes nothing that is still to train. "
                f"trainer.{field} above {before:,} goes on; lab train begins another run."
            )
    return train(experiment, resume=run, progress=progress, callbacks=callbacks, on_evaluation=on_evaluation)


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _fit(
    experiment: Experiment,
    run: Run,
    data: LabDataModule,
    module: Learner,
    resume: Run | None,
    content: dict[str, Any] | None,
    sources: list[dict[str, Any]],
    progress: Progress | None,
    callbacks: Sequence[Callback],
    on_evaluation: Callable[[dict[str, float]], Any] | None,
    on_loop: Callable[[Any], None] | None,
) -> Result:
    data.folder = run.path
    tracked = experiment if ranks.rank() == 0 else experiment.model_copy(update={"tracking": _UNTRACKED})
    tracker = Tracker(tracked, run, module.counter, experiment.module.kind)
    observers: list[Observer] = [] if progress is None else [progress]
    if ranks.rank() == 0:
        observers.append(SystemUse(run.system_path, resolve_device(experiment.trainer.device)))
    loop = RunLoop(experiment, run, data, tracker, observers, on_evaluation)
    loop.state["begun_with"] = sources
    if content is not None:
        loop.resume_from(content)
    elif resume and loop.writes:
        loop.begin_anew()
    if on_loop is not None:
        on_loop(loop)
    trainer = build_trainer(
        experiment.trainer,
        folder=run.path,
        logger=tracker.logger,
        callbacks=[loop, *callbacks],
    )
    try:
        with stop_on_signals(loop.on_signal), listening(loop.show_work):
            try:
                trainer.fit(module, datamodule=data)
            finally:
                loop.leave()
    except BaseException as error:
        second_interrupt = isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt)
        interrupted = second_interrupt or isinstance(error, KeyboardInterrupt)
        if interrupted or not loop.gave_up:  # else it is what code in the chunk made of being given up
            loop.status = "interrupted" if interrupted else "failed"
            log.error("%s", "".join(traceback.format_exception(error)))
            loop.close(module, f"{type(error).__name__}: {error}")
            if second_interrupt:
                raise KeyboardInterrupt from None  # Lightning makes a second Ctrl-C an exit with code 1
            if _NORMALISES_ONE in str(error):
                raise UserError(
                    "batch normalisation needs more than one number of each channel: take larger minibatches "
                    "(batch_size), larger pictures, or a network without it."
                ) from error
            if isinstance(error, SystemExit):
                raise Failure(f"code of this run wanted to end the process (SystemExit: {error}).") from error
            raise
    if loop.gave_up:
        loop.give_up_chunk()
    loop.close(module)
    return Result(run, loop.status, dict(loop.recorder.latest), loop.best)


@contextmanager
def _log_to(run: Run, shown: Progress | None) -> Iterator[None]:
    """The lab's own log lines go into the run directory, warnings to whoever watches, too."""
    handler = logging.FileHandler(run.path / "log.txt", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers = [handler] if shown is None else [handler, _Notes(shown)]
    for each in handlers:
        log.addHandler(each)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        for each in handlers:
            log.removeHandler(each)
            each.close()


class _Notes(logging.Handler):
    """Warnings as notes of a progress display; errors end the run, and are told by whoever began it."""

    def __init__(self, shown: Progress) -> None:
        super().__init__(logging.WARNING)
        self.shown = shown

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self.shown.note(record.getMessage())


@contextmanager
def _threads(num_threads: int | None) -> Iterator[None]:
    """Torch's threads for the run alone; None: as many as there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
