"""A comparison in the terminal: one table a section, the best group first."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.console import Group as Renderables
from rich.table import Table
from rich.text import Text

from lab.comparison.groups import Group, show
from lab.comparison.statistics import Estimate
from lab.comparison.summary import Row, Section

COUNTERS = {"env_steps": "steps", "samples": "samples"}


def tables(sections: Sequence[Section], console: Console, width: int) -> Renderables:
    """One table a section, each as wide as `width` allows."""
    return Renderables(*(_fitting(section, console, width) for section in sections))


def _fitting(section: Section, console: Console, width: int) -> Table:
    """A section's table without the columns for which there is no room, the least important first."""
    unit = COUNTERS.get(section.counter, section.counter)
    left_out: list[str] = []
    to_threshold = ["s\nto it", f"{unit}\nto it", f"reached\n{number(section.threshold)}"]
    for heading in (f"{unit}/s", "seconds", "median", "mean", unit, "P(1st\nbetter)", *to_threshold, "best", ""):
        made = table(section, left_out)
        if made.__rich_measure__(console, console.options.update(width=10_000)).minimum <= width:
            break
        left_out.append(heading)
    return made


def table(section: Section, left_out: Sequence[str] = ()) -> Table:
    """A section as a table; interval columns only where a group has several runs."""
    unit = COUNTERS.get(section.counter, section.counter)
    several = any(len(row.values) > 1 for row in section.rows)
    direction = "higher is better" if section.mode == "max" else "lower is better"
    made = Table(
        title=f"{section.title} ({section.at} of each run, {direction})",
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="IQM: interquartile mean; [ ]: stratified bootstrap 95 % interval" if several else None,
        caption_justify="left",
    )
    made.add_column("group", min_width=max(len(row.group.recipe) for row in section.rows))
    headings = _headings(section, several, unit)
    rows = [_cells(row, section, several) for row in section.rows]
    for place, heading in enumerate(headings, 1):
        if heading not in left_out:
            widths = [len(line) for line in (*heading.split("\n"), *(str(cells[place]) for cells in rows))]
            made.add_column(heading, justify="right", no_wrap=True, min_width=max(widths))
    for index, (label, *cells) in enumerate(rows):
        shown = [cell for cell, heading in zip(cells, headings, strict=True) if heading not in left_out]
        made.add_row(label, *shown, style="green" if index == 0 and len(section.rows) > 1 else "")
    for group in section.waiting:
        made.add_row(_label(group), str(len(group.runs)), "not evaluated yet", style="dim")
    return made


def _headings(section: Section, several: bool, unit: str) -> list[str]:
    headings = ["runs", *(("IQM [95 %]", "mean", "median") if several else ("value",)), "best"]
    if several and len(section.rows) > 1:
        headings.append("P(1st\nbetter)")
    if section.threshold is not None:
        headings += [f"reached\n{number(section.threshold)}", f"{unit}\nto it", "s\nto it"]
    return [*headings, unit, "seconds", f"{unit}/s"]


def _cells(row: Row, section: Section, several: bool) -> list[Text | str]:
    runs = str(len(row.values)) + (f" (+{row.unmeasured})" if row.unmeasured else "")
    cells: list[Text | str] = [_label(row.group), runs]
    if several:
        cells += [with_interval(row.iqm), number(row.mean.value), number(row.median.value)]
    else:
        cells.append(number(row.iqm.value))
    cells.append(number(row.best))
    if several and len(section.rows) > 1:
        cells.append("" if row.against_first is None else with_interval(row.against_first, digits=2))
    if section.threshold is not None:
        cells += [f"{row.reached}/{len(row.values)}", count(row.steps_to), number(row.seconds_to)]
    return [*cells, count(row.steps), number(row.seconds), count(row.steps_per_second)]


def _label(group: Group) -> Text:
    label = Text(group.recipe)
    for name, value in group.varied.items():
        label.append(f" {name.rpartition('.')[2]}=", style="dim")
        label.append(show(value), style="bold")
    return label


def with_interval(estimate: Estimate, digits: int = 4) -> str:
    """`0.97 [0.95, 0.98]`."""
    if estimate.low is None or estimate.high is None:
        return number(estimate.value, digits)
    return f"{number(estimate.value, digits)} [{number(estimate.low, digits)}, {number(estimate.high, digits)}]"


def number(value: float | None, digits: int = 4) -> str:
    """A number in few characters."""
    if value is None:
        return "—"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def count(value: float | None) -> str:
    """A whole number with thousands marked."""
    return "—" if value is None else f"{value:,.0f}"
