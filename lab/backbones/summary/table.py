"""A backbone's summary in the terminal: its layers as a table, then the totals."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from lab.backbones.summary.kinds import times
from lab.backbones.summary.totals import Summary
from lab.backbones.summary.trace import Row

_HEADINGS = ("output", "parameters", "mult-adds", "memory", "field")


def summary_table(summary: Summary, title: str) -> RenderableType:
    """A row for each row of the summary, whose names and kinds may be broken where there is little room."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("layer", overflow="fold")
    table.add_column("kind", overflow="fold")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in summary.rows:
        table.add_row(*_cells(row))
    return Group(table, *totals(summary))


def totals(summary: Summary) -> list[str]:
    """The totals, a line each."""
    samples = "1 sample" if summary.batch_size == 1 else f"{summary.batch_size:,} samples"
    steps = "" if summary.num_steps is None else f" of {summary.num_steps:,} step{'s' * (summary.num_steps > 1)}"
    return [
        f"parameters     {summary.parameters:,} (trainable {summary.trainable_parameters:,})",
        f"multiply-adds  {short(summary.multiply_adds)} for {samples}{steps}",
        f"memory         weights {short(summary.weight_bytes)}B, outputs of all layers {short(summary.output_bytes)}B,",
        f"               a training step with Adam {short(summary.training_bytes)}B",
    ]


def short(value: int) -> str:
    """Three digits and a decimal prefix, before a unit: `12.5 M`."""
    if value < 1000:
        return f"{value} "
    number, prefixes = value / 1000, "kMGT"
    while number >= 999.5 and len(prefixes) > 1:
        number, prefixes = number / 1000, prefixes[1:]
    return f"{number:.3g} {prefixes[0]}" if number < 999.5 else f"{number:,.0f} {prefixes[0]}"


def _cells(row: Row) -> Sequence[str]:
    field = row.receptive_field
    return (
        (row.name or "(network)") + (f" {row.calls} times" if row.calls > 1 else ""),
        row.kind,
        "" if row.output_shape is None else times(row.output_shape),
        f"{row.parameters:,}" if row.parameters else "",
        short(row.multiply_adds).strip() if row.multiply_adds else "",
        f"{short(row.output_bytes)}B" if row.output_bytes else "",
        field if isinstance(field, str) else times(field or ()),
    )
