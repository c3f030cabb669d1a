"""Numbers of each class (label, value) of a split, by its name: those that went worst, where there are many."""

from __future__ import annotations

from typing import NamedTuple

Table = dict[str, dict[str, float]]
MOST_ROWS = 40


class Shown(NamedTuple):
    """Rows of a table, how many are left out, and the number (F1, R2) that those have more of."""

    rows: Table
    num_left_out: int
    key: str


def shown(table: Table, most: int = MOST_ROWS) -> Shown:
    """All rows as they stand, or of more than `most`, those with the lowest F1 (or R2) first."""
    columns = list(next(iter(table.values())))
    key = next(name for name in ("f1", "r2") if name in columns)
    if len(table) <= most:
        return Shown(table, 0, key)
    rows = sorted(table.items(), key=lambda row: row[1][key])
    return Shown(dict(rows[:most]), len(rows) - most, key)
