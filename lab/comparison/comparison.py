"""Runs compared: groups by what differs, seeds aggregated."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult

from lab.comparison import records, summary
from lab.comparison.across import across
from lab.comparison.online import PREFIX, read_online
from lab.comparison.page.html import write_page
from lab.comparison.plain import plain
from lab.comparison.summary import At, Mode, Section
from lab.comparison.table import tables
from lab.runs.directory import Run, find


class Comparison(NamedTuple):
    """Sections, one a task and metric; with two tasks and more, also one over all of them. Printed, it is a table."""

    sections: list[Section]
    num_runs: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield tables(self.sections, console, options.max_width)

    def __str__(self) -> str:
        console = Console(width=140, highlight=False)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, which `lab compare --json` prints."""
        return plain(self.sections)

    def write_page(self, path: Path | str) -> None:
        """Write a page that opens without a network. Raises Failure when the file cannot be written."""
        write_page(self.sections, Path(path), f"Comparison of {self.num_runs} runs")


def compare(
    *runs: Run | Path | str | Iterable[Run | Path | str],
    metric: str | None = None,
    mode: Mode | None = None,
    at: At = "last",
    threshold: float | None = None,
) -> Comparison:
    """Compare runs.

    Args:
        runs: runs, run directories, folders of runs (a sweep), globs, `wandb:entity/project/group`, or lists of them.
        metric: compare by this metric; by default by the one that each run's module monitors.
        mode: whether the metric is to be high or low; by default what the module says, or what the name suggests.
        at: take the last value of each run, or its best.
        threshold: also measure the steps and seconds to the first value at least this good.

    Raises UserError when there is no such run, no run has the metric, or none was evaluated yet.
    """
    single = [one for run in runs for one in ([run] if isinstance(run, Run | Path | str) else run)]
    references = [str(run.path) if isinstance(run, Run) else str(run) for run in single]
    local = [reference for reference in references if not reference.startswith(PREFIX)]
    compared = records.read_all(find(local))
    for reference in references:
        if reference.startswith(PREFIX):
            compared += read_online(reference)
    sections = summary.evaluated(summary.sections(compared, metric=metric, mode=mode, at=at, threshold=threshold))
    return Comparison([*sections, *across(sections)], len(compared))
