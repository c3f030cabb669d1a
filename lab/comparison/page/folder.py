"""What lies beside the page in a report folder: learning curves as PNG, copies of pictures and videos."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from lab.comparison.curves import band
from lab.comparison.page.data import groups_of
from lab.comparison.records import Record
from lab.comparison.summary import Section

COLOURS = (
    "#3b7ddd",
    "#e8862e",
    "#2ba36b",
    "#d64f6b",
    "#8a63d2",
    "#17a2b8",
    "#b8860b",
    "#d264b6",
    "#6b8e23",
    "#7f8c9b",
)
_UNITS = {"env_steps": "environment steps", "samples": "samples"}


def plot_curves(sections: Sequence[Section], out: Path) -> list[Path]:
    """One PNG a section: its metric over steps and over seconds, `curve-<task>-<metric>.png`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paths = []
    for section in sections:
        figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, sharey=True)
        _draw(left, section, "steps")
        _draw(right, section, "seconds")
        left.set_xlabel(_UNITS.get(section.counter, section.counter))
        right.set_xlabel("seconds of training")
        left.set_ylabel(section.metric)
        figure.suptitle(section.title, x=0.01, ha="left", fontweight="bold")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
        paths.append(out / f"curve-{_file_name(section.task)}-{_file_name(section.metric)}.png")
        figure.savefig(paths[-1])
    return paths


def copy_media(run: Record, extra: Sequence[Path], folder: Path) -> None:
    """Copy a run's last pictures, its videos and `extra` to `folder/<run>/`."""
    copies = {path.name: path for path in (*run.media.others, *extra)}
    copies |= {f"{name}.png".replace("/", "-"): items[-1][1] for name, items in run.media.pictures.items()}
    if copies:
        (folder / run.name).mkdir(parents=True, exist_ok=True)
    for name, path in copies.items():
        shutil.copyfile(path, folder / run.name / name)


def _draw(axes, section: Section, axis) -> None:
    for index, group in enumerate(groups_of(section)):
        curves = [run.curves[section.metric] for run in group.runs if section.metric in run.curves]
        colour = COLOURS[index % len(COLOURS)]
        if len(curves) > 1:
            joined = band(curves, axis)
            axes.fill_between(joined.x, joined.low, joined.high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(joined.x, joined.middle, color=colour, label=f"{group.label} ({len(curves)} runs)")
        elif curves:
            axes.plot(getattr(curves[0], axis), curves[0].values, color=colour, label=group.label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-")
