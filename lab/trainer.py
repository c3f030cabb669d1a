"""One builder of Lightning trainers for all experiments, and the loop's book-keeping as callbacks.

After each chunk: metrics, evaluation when due, checkpoints when due, stop when the budget is used or somebody asked.
All schedules follow the module's own counter (environment steps or samples), so that they survive a resume.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image as PILImage
from torch import Tensor

from lab import checkpoint, config, parallel
from lab.data.module import LabDataModule
from lab.errors import Failure, UserError
from lab.experiment import Experiment, TrainerConfig
from lab.learner import Learner
from lab.runs import MetricsFile, Run, environment, write_atomic
from lab.seeding import derive_seed
from lab.tracking import Tracker

log = logging.getLogger("lab")

_RESULT_SECONDS = 1.0


def resolve_device(name: str) -> torch.device:
    """The device of `trainer.device`. Raises UserError when the machine has none such."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"trainer.device={name!r} is not a device. Valid choices: auto, cpu, cuda, cuda:0.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"trainer.device={name!r}: this machine has {torch.cuda.device_count()} CUDA devices.")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"trainer.device={name!r} is not supported. Valid choices: auto, cpu, cuda, cuda:0.")
    return device


def build_trainer(
    trainer_config: TrainerConfig,
    *,
    run: Run,
    logger: Any,
    callbacks: Sequence[Callback],
) -> Trainer:
    """The Lightning trainer of an experiment: one endless epoch, ended by the callbacks.

    On several workers each has a trainer of its own; what they do together, they do by `lab.parallel`.
    """
    device = resolve_device(trainer_config.device)
    devices: Any = [device.index] if device.type == "cuda" and device.index is not None else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=devices,
            precision="bf16-mixed" if trainer_config.precision == "bf16" else "32-true",
            max_epochs=-1,
            logger=logger or False,
            callbacks=list(callbacks),
            default_root_dir=run.path,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            barebones=False,
            deterministic="warn" if trainer_config.deterministic else None,
            log_every_n_steps=2**31,
            use_distributed_sampler=False,
        )


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
        self.writes = parallel.rank() == 0
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
        self.data.to(trainer.strategy.root_device)
        if self._resume_from is None:
            parallel.make_alike(pl_module)
            parallel.separate_generators(self.experiment.seed, trainer.strategy.root_device)
        else:
            self._restore(pl_module, self._resume_from)
            self._resume_from = None
            if self.writes:
                write_atomic(self.run.path / "experiment.yaml", config.to_yaml(self.experiment))
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
            metrics = parallel.mean_metrics(outputs or {})
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
        if parallel.num_ranks() == 1:
            return _Agreement(*flags)
        names = [name for name in module.counters if name != "updates"]  # every rank takes part in each update
        done = [module.counters[name] - self._counted[name] for name in names]
        *sums, stop, out_of_time, save = parallel.totals([*done, *flags])
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
            "experiment": config.dump(self.experiment),
            "counters": dict(module.counters),
            "best": self.best,
            "state_dict": module.state_dict(),
        }

    def _save_last(self, module: Learner) -> None:
        parallel.check_alike(module)
        train, own = module.train_state(), {"data": self.data.state_dict(), "rng": checkpoint.rng_state()}
        ranks = parallel.gather({"train": {key: train[key] for key in module.rank_state}, **own})
        if self.writes:
            offset = self.metrics_file.offset()
            content = self._weights(module) | {
                "train": train,
                **own,
                "ranks": ranks[1:],
                "noise": parallel.noise_state(),
                "loop": {**self.state, "metrics_offset": offset, "latest": self.latest},
            }
            checkpoint.save(self.run.checkpoints / "last.ckpt", content)
            self.tracker.flush(self.metrics_file, offset)
        parallel.wait()
        self.data.on_saved()
        self._last_save = time.perf_counter()

    def _restore(self, module: Learner, content: dict[str, Any]) -> None:
        load_weights(module, content)
        checkpoint.set_rng_state(content["rng"])
        parallel.set_noise_state(content.get("noise", {}))
        count = content["counters"][module.counter]
        parallel.separate_generators(derive_seed(self.experiment.seed, "resumed", count), self.data.device)
        ranks = [{key: content[key] for key in ("train", "data", "rng")}, *content.get("ranks", ())]
        if len(ranks) == parallel.num_ranks():
            own = ranks[parallel.rank()]
            module.load_train_state(content["train"] | own["train"])
            self.data.load_state_dict(own["data"])
            checkpoint.set_rng_state(own["rng"])
        else:
            trains = [state["train"] for state in ranks]
            regrouped = parallel.regrouped(trains, module.rank_state, module.train_state())
            module.load_train_state(content["train"] | regrouped)
            self.data.load_state_dicts([state["data"] for state in ranks])
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
                "workers": parallel.num_ranks(),
                "seconds": round(self.state["seconds"], 3),
                "metrics": self.latest,
                "monitor": module.monitor._asdict(),
                "best": self.best,
                **self._environment,
            }
        )


def load_weights(module: Learner, content: dict[str, Any]) -> None:
    """Load a checkpoint's weights. Raises UserError when they belong to another network."""
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the checkpoint does not fit the experiment's module: {reason}") from None


@contextmanager
def evaluating(module: Learner, seed: int) -> Iterator[None]:
    """Evaluation mode without gradients, with random numbers of its own: training goes on as if it had not been."""
    state, training = checkpoint.rng_state(), module.training
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    module.eval()
    try:
        with torch.no_grad(), parallel.alone():
            yield
    finally:
        module.train(training)
        checkpoint.set_rng_state(state)


@contextmanager
def stop_on_signals(loop: RunLoop) -> Iterator[None]:
    """SIGTERM and the first Ctrl-C end the run after the current chunk; a second Ctrl-C ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    previous = {number: signal.signal(number, loop.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
