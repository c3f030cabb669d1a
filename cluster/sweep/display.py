"""One progress display for many runs: a table that refreshes for a person, lines for a log file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_LINE_SECONDS = 10.0


class RunProgress(NamedTuple):
    """One run as the display shows it; `result` is what its result.json holds."""

    name: str
    status: str
    result: dict[str, Any] | None


class Display:
    """Shows the runs of a sweep. Does nothing when quiet, except for notes about failures."""

    def __init__(self, title: str, quiet: bool = False, console: Console | None = None) -> None:
        self.title, self.quiet = title, quiet
        self.console = console or Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._first_shown: dict[str, tuple[float, int]] = {}
        self._started = self._line_at = time.monotonic()

    def __enter__(self) -> Display:
        if self.console.is_terminal and not self.quiet:
            self._live = Live(console=self.console, auto_refresh=False, transient=False)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, text: str) -> None:
        """Say something in one line, above the table."""
        self.console.print(text, soft_wrap=True, markup=False)

    def update(self, rows: Sequence[RunProgress]) -> None:
        """Show how far the runs are."""
        if self.quiet:
            return
        now = time.monotonic()
        if self._live is not None:
            self._live.update(self._table(rows, now), refresh=True)
        elif now - self._line_at >= _LINE_SECONDS:
            self._line_at = now
            self.note(self._headline(rows, now))
            for row in rows:
                if row.status == "running":
                    self.note(f"  {self.line(row, now)}")

    def line(self, row: RunProgress, now: float | None = None) -> str:
        """A run in one line of text."""
        result = row.result
        if result is None or result.get("counter") not in result:
            return f"{row.name}: {row.status}"
        count, budget, counter = _progress(result)
        left = self._left(row, now or time.monotonic())
        parts = [f"{row.name}: {count:,}/{budget:,} {counter}", _metric(result)]
        if row.status == "running" and left is not None:
            parts.append(f"{left:.0f} s left")
        elif row.status != "running":
            parts.append(row.status)
        return ", ".join(part for part in parts if part)

    def _headline(self, rows: Sequence[RunProgress], now: float) -> str:
        counts = {status: sum(row.status == status for row in rows) for status in dict.fromkeys(r.status for r in rows)}
        listed = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"{self.title}: {listed} ({_clock(now - self._started)})"

    def _table(self, rows: Sequence[RunProgress], now: float) -> Group:
        table = Table(box=None, padding=(0, 1), show_header=False)
        for _ in range(6):
            table.add_column(no_wrap=True)
        order = {"running": 0, "failed": 1, "completed": 2, "stopped": 3, "paused": 4, "waiting": 5}
        shown = sorted(rows, key=lambda row: order.get(row.status, 9))[: max(4, self.console.height - 4)]
        for row in sorted(shown, key=rows.index):
            table.add_row(*self._cells(row, now))
        hidden = [Text(f"  and {len(rows) - len(shown)} more", style="dim")] if len(shown) < len(rows) else []
        return Group(Text(self._headline(rows, now), style="bold"), table, *hidden)

    def _cells(self, row: RunProgress, now: float) -> list[Any]:
        style = {"failed": "red", "completed": "green", "waiting": "dim", "paused": "dim", "stopped": "dim"}.get(
            row.status, ""
        )
        if row.result is None or row.result.get("counter") not in row.result:
            word = "starting" if row.status == "running" else row.status
            return [Text(row.name, style=style), "", Text(word, style=style)]
        count, budget, counter = _progress(row.result)
        left = self._left(row, now)
        ending = row.status if row.status != "running" else (f"{_clock(left)} left" if left is not None else "")
        return [
            Text(row.name, style=style),
            ProgressBar(total=budget, completed=min(count, budget), width=24),
            Text(f"{count:,}/{budget:,}"),
            Text(counter, style="dim"),
            Text(_metric(row.result)),
            Text(ending, style=style or "cyan"),
        ]

    def _left(self, row: RunProgress, now: float) -> float | None:
        """Seconds left at the pace since the run was first shown here."""
        assert row.result is not None
        count, budget, _ = _progress(row.result)
        first_at, first_count = self._first_shown.setdefault(row.name, (now, count))
        if row.status != "running" or count <= first_count:
            return None
        return max(0.0, (budget - count) * (now - first_at) / (count - first_count))


def _progress(result: dict[str, Any]) -> tuple[int, int, str]:
    counter = str(result["counter"])
    return int(result[counter]), int(result["budget"]), counter.replace("_", " ")


def _metric(result: dict[str, Any]) -> str:
    best = result.get("best")
    return f"best {best['metric'].removeprefix('eval/')} {best['value']:.4g}" if best else ""


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
