"""What happens around the chunks of a run: metrics, evaluation, checkpoints, the end.

All schedules follow the module's own counter (environment steps or samples), so that they survive a resume.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import Callback, Trainer
from PIL import Image as PILImage
from torch import Tensor

from lab.config import serialization
from lab.data.module import LabDataModule
from lab.errors import Failure
from lab.experiment import Experiment
from lab.ranks import collectives, ranks, shared_noise, shares
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.runs.files import write_atomic
from lab.runs.metrics_file import MetricsFile
from lab.runs.provenance import environment
from lab.runs.tracking import Tracker
from lab.seeding import derive_seed
from lab.training.evaluation import evaluating
from lab.training.learner import Learner
from lab.training.saving import load_weights

log = logging.getLogger("lab")
_RESULT_SECONDS = 1.0


class _Agreement(NamedTuple):
    """What all ranks take for true after a chunk."""

    stop: bool
    out_of_time: bool
    save: bool


class RunLoop(Callback):
    """What happens around the chunks of a run: metrics, evaluation, checkpoints, the end.

    Of several ranks the first evaluates and writes for all; counters are those of all.
    """

    def __init__(self, experiment: Experiment, run: Run, data: LabDataModule, tracker: Tracker) -> None:
        self.experiment, self.run, self.data, self.tracker = experiment, run, data, tracker
        trainer = experiment.trainer
        self.budget = trainer.budget
        self.eval_period = trainer.eval_period or max(1, trainer.budget // 20)
        self.log_period = trainer.log_period or max(1, trainer.budget // 200)
        self.writes = ranks.rank() == 0
        self.metrics_file = MetricsFile(run.metrics_path if self.writes else Path(os.devnull))
        self.status = "running"
        self.pause_at: int | None = None
        """the count at which the run saves itself and ends, resumable"""
        self.best: dict[str, Any] | None = None
        self.latest: dict[str, float] = {}
        self.state: dict[str, Any] = {"next_eval": self.eval_period, "next_log": self.log_period, "seconds": 0.0}
        self._environment = environment()
        self._resume_from: dict[str, Any] | None = None
        self._counted: dict[str, int] = {}
        self._stop_asked = threading.Event()
        self._clock = self._last_save = self._last_result = 0.0
        self._metrics_offset = 0

    # ------------------------------------------------------------------ for the caller

    def resume_from(self, content: dict[str, Any]) -> None:
        """Continue from a `last` checkpoint when the fit starts."""
        self._resume_from = content

    def ask_to_stop(self) -> None:
        """End the run after the current chunk, saved and resumable."""
        self._stop_asked.set()

    def on_signal(self, number: int, frame: Any) -> None:
        """The handler of SIGTERM and SIGINT; a second SIGINT ends the run at once."""
        if number == signal.SIGINT and self._stop_asked.is_set():
            raise KeyboardInterrupt
        self.ask_to_stop()

    def close(self, module: Learner, error: str | None = None) -> None:
        """Write the result, end tracking, let go of the files. A run that could not be restored stays as it was."""
        if self._resume_from is None and self.writes:
            self._write_result(module, error)
        summary = {key: value for key, value in self.latest.items() if key.startswith("eval/")}
        self.tracker.finish(self.status, {**summary, "monitor": module.monitor._asdict()})
        self.metrics_file.close()

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
                write_atomic(self.run.path / "experiment.yaml", serialization.to_yaml(self.experiment))
        self._clock = self._last_save = time.perf_counter()
        if self.writes:
            self._write_result(pl_module)
        if pl_module.counters[pl_module.counter] >= self.budget:
            trainer.should_stop = True
            self.status = "completed"
        elif self._paused(pl_module):
            trainer.should_stop = True
            self.status = "interrupted"

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.set_progress(pl_module.counters[pl_module.counter] / self.budget)
        self._counted = dict(pl_module.counters)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        module: Learner = pl_module
        now = time.perf_counter()
        self.state["seconds"] += now - self._clock
        agreed = self._agree(module, now)
        count = module.counters[module.counter]
        done = count >= self.budget or agreed.out_of_time
        stopping = done or agreed.stop or self._paused(module)
        if count >= self.state["next_log"] or stopping:
            self.state["next_log"] = (count // self.log_period + 1) * self.log_period
            metrics = collectives.mean_metrics(outputs or {})
            if self.writes:
                self._log_row(module, metrics)
        if count >= self.state["next_eval"] or done:
            self.state["next_eval"] = (count // self.eval_period + 1) * self.eval_period
            if self.writes:
                self._evaluate(module, last=done)
        if stopping:
            self.status = "completed" if done else "interrupted"
        if stopping or agreed.save:
            self._save_last(module)
        if self.writes and (stopping or now - self._last_result >= _RESULT_SECONDS):
            self._write_result(module)
        trainer.should_stop = trainer.should_stop or stopping
        self._clock = time.perf_counter()

    # ------------------------------------------------------------------ the pieces

    def _paused(self, module: Learner) -> bool:
        return self.pause_at is not None and module.counters[module.counter] >= self.pause_at

    def _agree(self, module: Learner, now: float) -> _Agreement:
        """Count what all ranks did in this chunk; end, and save, when any of them has a reason to."""
        due = self.writes and now - self._last_save >= self.experiment.trainer.checkpoint_seconds
        flags = [self._stop_asked.is_set(), self._out_of_time(), due]
        if ranks.num_ranks() == 1:
            return _Agreement(*flags)
        names = [name for name in module.counters if name != "updates"]  # every rank takes part in each update
        done = [module.counters[name] - self._counted[name] for name in names]
        *sums, stop, out_of_time, save = collectives.totals([*done, *flags])
        module.counters.update({name: self._counted[name] + int(n) for name, n in zip(names, sums, strict=True)})
        return _Agreement(stop > 0, out_of_time > 0, save > 0)

    def _out_of_time(self) -> bool:
        limit = self.experiment.trainer.max_seconds
        return limit is not None and self.state["seconds"] >= limit

    def _log_row(self, module: Learner, outputs: dict[str, Any]) -> None:
        values = {key: float(value) if isinstance(value, Tensor) else value for key, value in outputs.items()}
        for key, value in values.items():
            if key.startswith("losses/") and not math.isfinite(value):
                raise Failure(
                    f"{key} became {value} at {module.counter}={module.counters[module.counter]:,}; "
                    f"a lower module.optimizer.lr or a max_grad_norm may help."
                )
        seconds = self.state["seconds"]
        values["charts/steps_per_second"] = module.counters[module.counter] / seconds if seconds else 0.0
        self._append(module, values)

    def _append(self, module: Learner, values: dict[str, Any]) -> None:
        self.latest |= {key: value for key, value in values.items() if isinstance(value, int | float)}
        self.metrics_file.append({**module.counters, "seconds": round(self.state["seconds"], 3), **values})

    def _evaluate(self, module: Learner, *, last: bool) -> None:
        count = module.counters[module.counter]
        with evaluating(module, derive_seed(self.experiment.seed, "evaluation", count)):
            values: dict[str, Any] = dict(module.evaluate(self.data))
            pictures = module.pictures(self.data)
            film = module.film(self.data, self.run.media) if last and self.tracker.logger is not None else None
        if pictures:
            values["pictures"] = {name: self._save_picture(name, image, count) for name, image in pictures.items()}
        if film is not None:
            values["films"] = {film.stem: str(film.relative_to(self.run.path))}
        self._append(module, values)
        value = values[module.monitor.metric]
        if module.monitor.better(value, self.best["value"] if self.best else None):
            self.best = {"metric": module.monitor.metric, "value": value, **module.counters}
            checkpoint.save(self.run.checkpoints / "best.ckpt", self._weights(module))

    def _save_picture(self, name: str, image: np.ndarray[Any, Any], count: int) -> str:
        folder = self.run.media / name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{count:012d}.png"
        PILImage.fromarray(image).save(path)
        return str(path.relative_to(self.run.path))

    def _weights(self, module: Learner) -> dict[str, Any]:
        return {
            "experiment": serialization.dump(self.experiment),
            "counters": dict(module.counters),
            "best": self.best,
            "state_dict": module.state_dict(),
        }

    def _save_last(self, module: Learner) -> None:
        collectives.check_agreement(module)
        train, own = module.train_state(), {"data": self.data.state_dict(), "rng": checkpoint.rng_state()}
        ranks = collectives.gather({"train": {key: train[key] for key in module.rank_state}, **own})
        if self.writes:
            offset = self.metrics_file.offset()
            content = self._weights(module) | {
                "train": train,
                **own,
                "ranks": ranks[1:],
                "noise": shared_noise.noise_state(),
                "loop": {**self.state, "metrics_offset": offset, "latest": self.latest},
            }
            checkpoint.save(self.run.checkpoints / "last.ckpt", content)
            self.tracker.flush(self.metrics_file, offset)
        collectives.barrier()
        self.data.on_saved()
        self._last_save = time.perf_counter()

    def _restore(self, module: Learner, content: dict[str, Any]) -> None:
        load_weights(module, content)
        checkpoint.set_rng_state(content["rng"])
        shared_noise.set_noise_state(content.get("noise", {}))
        count = content["counters"][module.counter]
        shared_noise.separate_generators(derive_seed(self.experiment.seed, "resumed", count), self.data.device)
        states = [{key: content[key] for key in ("train", "data", "rng")}, *content.get("ranks", ())]
        if len(states) == ranks.num_ranks():
            own = states[ranks.rank()]
            module.load_train_state(content["train"] | own["train"])
            self.data.load_state_dict(own["data"])
            checkpoint.set_rng_state(own["rng"])
        else:
            trains = [state["train"] for state in states]
            regrouped = shares.regrouped(trains, module.rank_state, module.train_state())
            module.load_train_state(content["train"] | regrouped)
            self.data.load_state_dicts([state["data"] for state in states])
        loop = dict(content["loop"])
        offset = loop.pop("metrics_offset")
        if self.writes:
            self.metrics_file.truncate(offset)
        self.latest = loop.pop("latest")
        self.state |= loop
        self.best = content["best"]

    def _write_result(self, module: Learner, error: str | None = None) -> None:
        self._last_result = time.perf_counter()
        self.run.write_result(
            {
                "format": checkpoint.FORMAT,
                "recipe": self.experiment.name,
                "status": self.status,
                "error": error,
                "seed": self.experiment.seed,
                "budget": self.budget,
                "counter": module.counter,
                **module.counters,
                "workers": ranks.num_ranks(),
                "seconds": round(self.state["seconds"], 3),
                "metrics": self.latest,
                "monitor": module.monitor._asdict(),
                "best": self.best,
                **self._environment,
            }
        )
