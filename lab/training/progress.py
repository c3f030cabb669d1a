"""Progress of one run: a bar with time left for a person, a line every ten seconds for a log file."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_REFRESH_SECONDS = 0.2
_LINE_SECONDS = 10.0


class Progress(Callback):
    """Shows a run's counter, throughput and monitored metric."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._shown_at = 0.0
        self._started_at = (0.0, 0)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._loop = next(callback for callback in trainer.callbacks if hasattr(callback, "resume_from"))  # type: ignore[attr-defined]
        count = pl_module.counters[pl_module.counter]
        self._started_at = (time.perf_counter(), count)
        self._shown_at = time.perf_counter()
        self._announce(pl_module, count)
        if self.console.is_terminal:
            self._bar = Bar(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[counter]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=self.console,
                auto_refresh=False,
            )
            self._task = self._bar.add_task(
                self._loop.experiment.name,
                total=self._loop.budget,
                completed=count,
                counter=pl_module.counter.replace("_", " "),
                text="",
            )
            self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = time.perf_counter()
        if now - self._shown_at < (_REFRESH_SECONDS if self._bar else _LINE_SECONDS):
            return
        self._shown_at = now
        self._show(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._show(pl_module)
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._stop()

    def _announce(self, module: Any, count: int) -> None:
        """What is going to happen, where it is written, how to stop and go on."""
        experiment, path = self._loop.experiment, self._loop.run.path
        unit = {"env_steps": "environment steps"}.get(module.counter, module.counter)
        whole = f"{experiment.name}, seed {experiment.seed}: {self._loop.budget:,} {unit} on {module.device.type}"
        lines = [f"{whole}, going on from {count:,}" if count else whole]
        lines.append(f"writes metrics, checkpoints and pictures into {path}")
        lines.append(f"Ctrl-C ends it, saved; lab resume {path} goes on")
        self.console.print("\n".join(lines), style="dim", highlight=False, soft_wrap=True, markup=False)

    def _show(self, module: Any) -> None:
        count = module.counters[module.counter]
        since, from_count = self._started_at
        rate = (count - from_count) / max(time.perf_counter() - since, 1e-9)
        metric = module.monitor.metric
        value = self._loop.latest.get(metric)
        text = f"{rate:,.0f}/s" + (f"  {metric} {value:.4g}" if value is not None else "")
        if self._bar is not None:
            self._bar.update(self._task, completed=min(count, self._loop.budget), text=text, refresh=True)
        else:
            left = (self._loop.budget - count) / rate if rate else 0.0
            self.console.print(
                f"{self._loop.experiment.name}: {count:,}/{self._loop.budget:,} {module.counter.replace('_', ' ')}, "
                f"{text}, {max(left, 0):.0f} s left",
                highlight=False,
                soft_wrap=True,
            )

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
