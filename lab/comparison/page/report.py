"""What others call: a comparison of run directories as a table, or as a folder that can be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.comparison import records, summary
from lab.comparison.across import across
from lab.comparison.comparison import Comparison
from lab.comparison.page.folder import copy_media, plot_curves
from lab.comparison.page.html import write_page
from lab.comparison.summary import At
from lab.runs.directory import Run
from lab.runs.files import disk_failure


def comparison_table(
    runs: Sequence[Run], *, metric: str | None = None, at: At = "last", threshold: float | None = None
) -> Comparison:
    """One table a task and metric, for `Console.print`. Raises UserError when no run was evaluated."""
    read = records.read_all(runs)
    sections = summary.evaluated(summary.sections(read, metric=metric, at=at, threshold=threshold))
    return Comparison([*sections, *across(sections)], len(read))


def write_report(
    runs: Sequence[Run],
    out: Path,
    *,
    title: str = "Comparison",
    metric: str | None = None,
    at: At = "last",
    threshold: float | None = None,
    extra_media: Mapping[Path, Sequence[Path]] | None = None,
) -> Path:
    """Write a report folder and return the path of its `report.html`.

    The folder holds the page (self-contained), learning curves as PNG, and below `media/<run>/` copies of each run's
    last pictures, its videos, and `extra_media`.

    Args:
        out: a folder; made when it does not exist, its files of the same names replaced.
        extra_media: more pictures and videos of a run, by its directory (`Run.path`).

    Raises:
        UserError: when no run was evaluated.
        Failure: when the folder cannot be written.
    """
    read = records.read_all(runs)
    sections = summary.evaluated(summary.sections(read, metric=metric, at=at, threshold=threshold))
    extra = {str(path): list(files) for path, files in (extra_media or {}).items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        plot_curves(sections, out)
        for run in read:
            copy_media(run, extra.get(str(run.path), ()), out / "media")
    except OSError as error:
        raise disk_failure(out, error) from error
    write_page([*sections, *across(sections)], out / "report.html", title, extra)
    return out / "report.html"
