"""Progress of one run: a bar with time left for a person, a line every ten seconds for a log file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from lab import catalog
from lab.long_work import listening
from lab.training.status import Status

_REFRESH_SECONDS = 0.2
_LINE_SECONDS = 10.0
_WORK_SECONDS = 2.0
"""between two lines about what is no training"""


@contextmanager
def showing_work(console: Console | None = None) -> Iterator[None]:
    """Show long work (`lab.long_work`) within: a line that changes for a person, one now and then for a log file."""
    console = console or Console(stderr=True)
    pace, line = _Pace(), console.status("") if console.is_terminal else None

    def show(work: str, done: int, total: int) -> None:
        if not pace.is_due(work, _WORK_SECONDS if line is None else _REFRESH_SECONDS):
            return
        text = _text_of(work, done, total)
        if line is None:
            console.print(text, style="dim", highlight=False, soft_wrap=True)
        else:
            line.update(text)
            line.start()

    try:
        with listening(show):
            yield
    finally:
        if line is not None:
            line.stop()


class Progress:
    """An observer that shows a run's counter, throughput and monitored metric."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._shown_at = 0.0
        self._started_at = (0.0, 0)
        self._status: Status | None = None
        self._shown: Status | None = None
        self._pace = _Pace()

    def start(self, status: Status) -> None:
        """Say what is going to happen, where it is written, how to stop and go on."""
        self._started_at = (time.perf_counter(), status.count)
        self._shown_at = time.perf_counter()
        self._announce(status)
        if self.console.is_terminal or (self.console.is_jupyter and find_spec("ipywidgets") is not None):
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
                status.name, total=status.budget, completed=status.count, counter=_words(status.counter), text=""
            )
            self._bar.start()

    def note(self, sentence: str) -> None:
        """Say something once, on a line of its own."""
        self.console.print(sentence, style="dim", highlight=False, soft_wrap=True, markup=False)

    def update(self, status: Status) -> None:
        """Show it, when it is time again."""
        self._status = status
        self._pace.work_ended()
        now = time.perf_counter()
        if now - self._shown_at >= (_REFRESH_SECONDS if self._bar else _LINE_SECONDS):
            self._shown_at = now
            self._show(status)

    def work(self, work: str, done: int, total: int) -> None:
        """Show it as an update, when it is time again."""
        if not self._pace.is_due(work, _REFRESH_SECONDS if self._bar else _WORK_SECONDS):
            return
        self._shown_at = time.perf_counter()
        text = _text_of(work, done, total)
        if self._bar is not None:
            self._bar.update(self._task, text=text, refresh=True)
        else:
            self.console.print(f"  {text}", style="dim", highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Show where it ended, and let go of the terminal."""
        status, self._status = self._status, None
        if status is not None and status is not self._shown:
            self._show(status)
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _announce(self, status: Status) -> None:
        unit = {"env_steps": "environment steps"}.get(status.counter, status.counter)
        whole = f"{status.name}, seed {status.seed}: {status.budget:,} {unit} on {status.device}"
        lines = [f"{whole}, going on from {status.count:,}" if status.count else whole]
        lines.append(f"writes metrics, checkpoints and pictures into {status.path}")
        lines.append(f"Ctrl-C ends it, saved; lab resume {status.path}{catalog.import_options()} goes on")
        self.note("\n".join(lines))

    def _show(self, status: Status) -> None:
        self._shown = status
        since, from_count = self._started_at
        rate = (status.count - from_count) / max(time.perf_counter() - since, 1e-9)
        value = status.metrics.get(status.monitored)
        text = f"{rate:,.0f}/s" + (f"  {status.monitored} {value:.4g}" if value is not None else "")
        if self._bar is not None:
            self._bar.update(self._task, completed=min(status.count, status.budget), text=text, refresh=True)
        else:
            left = (status.budget - status.count) / rate if rate else 0.0
            self.console.print(
                f"{status.name}: {status.count:,}/{status.budget:,} {_words(status.counter)}, "
                f"{text}, {max(left, 0):.0f} s left",
                highlight=False,
                soft_wrap=True,
            )


class _Pace:
    """When to show work: once it has lasted a while, and then again and again."""

    def __init__(self) -> None:
        self._work, self._since = "", 0.0

    def work_ended(self) -> None:
        """What comes next is other work, even under the same name."""
        self._work = ""

    def is_due(self, work: str, seconds: float) -> bool:
        """Whether so many seconds have gone by since it began, or since it was due the last time."""
        now = time.perf_counter()
        if work != self._work:
            self._work, self._since = work, now
        if now - self._since < seconds:
            return False
        self._since = now
        return True


def _text_of(work: str, done: int, total: int) -> str:
    return f"{work}: {done / total:.0%}" if total else f"{work}: {done:,}"


def _words(counter: str) -> str:
    return counter.replace("_", " ")
