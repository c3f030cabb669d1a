"""A worker: one process that trains run after run, so that only its first run waits for imports.

`train` runs in a thread of the Ray actor, which leaves another one for `stop`. No signal reaches that thread: a run
that is to stop in the middle of a long chunk is closed by the other thread, and the driver ends the process.
"""

from __future__ import annotations

import gc
import os
import socket
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cluster.session import keys
from cluster.session.error_lines import one_line
from cluster.session.imports import Imports
from cluster.session.session import Resources
from lab.config import serialization
from lab.errors import Failure, UserError
from lab.runs.directory import Run
from lab.runs.files import write_atomic

_RELEASE_SECONDS = 30.0
_PATIENCE_SECONDS = 4.0
"""how long a run that is to stop may take for its chunk in progress"""

OutcomeStatus = Literal["completed", "paused", "interrupted", "failed", "unseen"]


class Outcome(NamedTuple):
    """How a worker's work on a run ended.

    status: completed, paused where it should wait, interrupted (both are saved and resumable), failed, or unseen: the
        sweep's directory is not there
    error: one line when it failed, the host when it was unseen
    worth_retrying: whether the same work may succeed in a fresh process
    """

    status: OutcomeStatus
    error: str = ""
    worth_retrying: bool = False


class Worker:
    """Trains experiments in its process, one at a time.

    Args:
        imports: the driver's, so that recipes from outside the project are found.
        own_keys: the driver's, for tracking and data services.
        gpu_share: the part of one GPU's memory that the process may use; 0 for none, 1 and more for whole ones.
    """

    def __init__(self, imports: Imports, own_keys: Mapping[str, str], gpu_share: float) -> None:
        imports.adopt()
        keys.adopt(own_keys)
        if not gpu_share:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # others have been given them
        import torch

        import lab.training.train

        if 0 < gpu_share < 1 and torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(gpu_share)
        self._train = lab.training.train.train
        self._stop_asked: float | None = None
        """the time at which the run in progress was first asked to stop"""
        self._pause_at: int | None = None
        self._builds = False
        self._loop: Any = None

    def identity(self) -> tuple[str, int]:
        """The host and the process id."""
        return socket.gethostname(), os.getpid()

    def train(self, tree: dict[str, Any], path: str, pause_at: int | None = None) -> Outcome:
        """Train the experiment `tree` in the run directory `path`: from its start, or on from its last checkpoint.

        `pause_at` is the count of steps or samples at which it saves itself and waits.
        """
        if not Path(path).parent.is_dir():  # the driver has made it; it should be on storage that all machines share
            return Outcome("unseen", socket.gethostname())
        self._stop_asked = None
        self._builds = True
        self._pause_at = pause_at
        try:
            run = Run(Path(path))
            experiment = serialization.validate(tree)
            started = (run.path / "experiment.yaml").is_file()
            if started:
                _wait_until_free(run)
            if started and run.experiment() != experiment:
                write_atomic(run.path / "experiment.yaml", serialization.to_yaml(experiment))
            result = self._train(
                experiment,
                run_dir=None if started else run.path,
                resume=run if started else None,
                on_loop=self._attach,
            )
        except (UserError, Failure) as error:
            return Outcome("failed", str(error), worth_retrying="another process" in str(error))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            line = f"{type(error).__name__}: {one_line(error)} ({Path(where.filename).name}, line {where.lineno})"
            return Outcome("failed", line, worth_retrying=_is_of_the_machine(error))
        finally:
            self._builds, self._loop = False, None
            _free_memory()
        reached = result.run.result()
        if result.status == "interrupted" and pause_at is not None and reached[reached["counter"]] >= pause_at:
            return Outcome("paused")
        return Outcome("completed" if result.status == "completed" else "interrupted")

    def stop(self) -> bool:
        """Ask the run that is being trained to end after its current chunk, saved; again and again, until it has.

        Returns True when the process can be ended at once: nothing is trained yet, or the chunk is still in progress
        some seconds after the first time, and a resumed run repeats it.
        """
        self._stop_asked = self._stop_asked or time.monotonic()
        if self._loop is None:
            return self._builds
        self._loop.ask_to_stop()
        return time.monotonic() - self._stop_asked > _PATIENCE_SECONDS and bool(self._loop.abandon())

    def _attach(self, loop: Any) -> None:
        self._builds, self._loop = False, loop
        loop.pause_at = self._pause_at
        if self._stop_asked is not None:
            loop.ask_to_stop()


def start_worker(kind: type[Worker], takes: Resources) -> Any:
    """A Ray actor of a kind of worker, which takes so much of one machine; it ends for good when its process does."""
    import ray

    options: dict[str, Any] = {"num_cpus": takes.cpus, "num_gpus": takes.gpus, "max_concurrency": 2}  # train and stop
    actor: Any = ray.remote(**options)(kind)
    return actor.remote(Imports.of_this_process(), keys.own_keys(), takes.gpus)


def is_true(answer: Any) -> bool:
    """Whether a worker has answered True by now."""
    import ray

    try:
        return bool(ray.wait([answer], timeout=0)[0] and ray.get(answer))
    except ray.exceptions.RayError:
        return False


def _is_of_the_machine(error: Exception) -> bool:
    """Whether an error may be gone in another process: a lost connection, a GPU that fails, a part of the cluster."""
    import ray
    import torch

    return isinstance(error, OSError | ray.exceptions.RayError | torch.AcceleratorError | torch.OutOfMemoryError)


def _wait_until_free(run: Run) -> None:
    """A worker that was killed lets go of its run only when its process has ended."""
    deadline = time.monotonic() + _RELEASE_SECONDS
    while run.is_alive() and time.monotonic() < deadline:
        time.sleep(0.1)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
