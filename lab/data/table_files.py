"""Tables as rows of cells: CSV files of any usual separator, and the encoding of their columns as numbers.

A column is numeric when all of its cells are numbers, else its cells are words. N rows, F features.
"""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lab.data.spec import Statistics
from lab.data.targets import Labelled, TargetKind, read_targets
from lab.data.targets.arrays import Array, mean_and_spread
from lab.data.targets.multi_label import are_zero_or_one
from lab.errors import UserError, shortened

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""cells that hold no value, whatever their case"""
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_SEPARATORS = ",;\t|"
_MOST_BYTES = 2**30
_MOST_WORDS = 100
"""different words of a column that are taken for categories; more are names, or a text"""


class Table(NamedTuple):
    """A header and rows of as many cells. `lines` are the numbers of the rows' lines, for messages."""

    header: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]


class Column(NamedTuple):
    """How one column becomes numbers: standardized by `mean` and `scale`, or 0 and 1 for each of `words`."""

    name: str
    words: tuple[str, ...] = ()
    mean: float = 0.0
    scale: float = 1.0


class Encoder(NamedTuple):
    """How rows become numbers, as it follows from the training rows."""

    columns: tuple[Column, ...]

    def encode(self, table: Table) -> Array:
        """The rows as numbers (N, F) float64.

        A number that is missing counts as the mean, a word that is missing, or unknown, as none of the words.
        Raises UserError for a column that is missing, and a cell that is no finite number in a column of numbers.
        """
        parts: list[Array] = []
        for name, words, mean, scale in self.columns:
            if name not in table.header:
                raise UserError(f"column {name!r} is missing; there are {', '.join(table.header)}.")
            cells = column(table, name)
            if words:
                parts += [np.array([cell == word for cell in cells], float) for word in words]
                continue
            values = [math.nan if cell.lower() in MISSING else _number(cell) for cell in cells]
            for cell, value, line in zip(cells, values, table.lines, strict=True):
                if value is None:
                    _refuse_decimal_commas(table, name)
                if value is None or math.isinf(value):
                    what = "no number" if value is None else "not finite"
                    raise UserError(f"column {name!r}, line {line}: {cell!r} is {what}.")
            numbers = np.array(values, np.float64)
            standardized = (np.where(np.isnan(numbers), mean, numbers) - mean) / scale
            beyond = np.abs(standardized) > np.finfo(np.float32).max
            if beyond.any():
                where = int(beyond.argmax())
                raise UserError(f"column {name!r}, line {table.lines[where]}: {cells[where]!r} is too large.")
            parts.append(standardized)
        return np.stack(parts, 1)

    @property
    def statistics(self) -> Statistics:
        """What the features are called, and what was subtracted from them and divided by."""
        features = [
            (f"{name}={word}" if words else name, mean, scale)
            for name, words, mean, scale in self.columns
            for word in words or ("",)
        ]
        names, means, scales = zip(*features, strict=True)
        return Statistics(names, means, scales)


def read_csv(path: Path) -> Table:
    """A CSV file with a header, in UTF-8. Raises UserError that names the file, and the line where there is one."""
    if not path.is_file():
        raise UserError(f"{shortened(str(path))} is no CSV file.")
    if path.stat().st_size > _MOST_BYTES:
        raise UserError(f"{shortened(str(path))} has {path.stat().st_size:,} bytes; a table may have {_MOST_BYTES:,}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{shortened(str(path))} is not UTF-8: {error.reason} at byte {error.start:,}.") from None
    return parse_csv(text, shortened(str(path)))


def parse_csv(text: str, source: str) -> Table:
    """A CSV file's content. Raises UserError that names the source, and the line where there is one."""
    first = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            if row:
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
    except csv.Error as error:
        raise UserError(f"{source}, line {reader.line_num}: {error}.") from None
    if not rows:
        raise UserError(f"{source} is empty.")
    header = tuple(rows[0])
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise UserError(f"{source} has two columns of the name {min(twice)!r}.")
    if all(_number(name) is not None for name in header):
        raise UserError(f"{source} has numbers in its first line, which must name the columns.")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise UserError(f"{source}, line {line}: {len(row)} cells, but the header has {len(header)} columns.")
    return Table(header, rows[1:], lines[1:])


def targets_of(table: Table, names: tuple[str, ...], kind: TargetKind, source: str) -> tuple[Array, Labelled]:
    """The columns to be predicted as a target's batches hold them (N, ...), and the target.

    One column of words is one of classes, several columns of 0 and 1 are labels, other numbers are values, unless
    `kind` says what they are. Raises UserError for a cell that is missing, or no number where that is needed.
    """
    if kind == "classes" and len(names) > 1:
        raise UserError(f"data.target={list(names)} has {len(names)} columns; classes are the words of one.")
    y = label_columns(table, names, kind)
    if kind == "auto":
        several = y.ndim == 2 and are_zero_or_one(y)
        kind = "classes" if y.dtype.kind == "U" else "multi_label" if several else "real"
    labels, target = read_targets({"train": y}, source, kind, () if kind == "classes" else names)
    return labels["train"], target


def label_columns(table: Table, names: tuple[str, ...], kind: TargetKind = "auto") -> Array:
    """Columns that say what a sample is, as they stand: words (N,), numbers (N,), whole ones as such, or (N, L).

    Raises UserError for a cell that is missing, and for words where numbers are needed: in one of several columns, or
    for another `kind` than classes.
    """
    columns: list[Array] = []
    for name in names:
        cells = column(table, name)
        for cell, line in zip(cells, table.lines, strict=True):
            if cell.lower() in MISSING:
                raise UserError(f"data.target={name!r}, line {line}: {cell!r} is nothing that can be predicted.")
        values = [_number(cell) for cell in cells]
        if None in values:
            _refuse_decimal_commas(table, name)
        if kind == "classes":
            return np.array(cells)
        if kind == "auto" and len(names) == 1 and sum(value is None for value in values) > len(values) // 2:
            return np.array(cells)
        for value, cell, line in zip(values, cells, table.lines, strict=True):
            if value is None or not math.isfinite(value):
                raise UserError(f"data.target={name!r}, line {line}: {cell!r} is no number that can be predicted.")
        columns.append(np.array(values, np.float64))
    y = np.stack(columns, 1)
    y = y.astype(np.int64) if (y == np.floor(y)).all() and np.abs(y).max(initial=0) < 2**53 else y
    return y if len(names) > 1 else y[:, 0]


def encoder_of(table: Table, names: tuple[str, ...], train: Array, categories: tuple[str, ...] = ()) -> Encoder:
    """How columns become numbers: numeric ones are standardized, others become a column of 0 and 1 for each word.

    Mean, standard deviation and words are those of the training rows `train`; words are not standardized. The numbers
    of `categories` are words, too.
    Raises UserError for a column that is empty there, of too many words, or with a word among numbers.
    """
    columns: list[Column] = []
    for name in names:
        cells = column(table, name)
        values = [math.nan if cell.lower() in MISSING else _number(cell) for cell in cells]
        if None in values or name in categories:
            if name not in categories:
                _refuse_decimal_commas(table, name)
                _refuse_a_word_among_numbers(table, name, values)
            words = sorted({cells[i] for i in train if cells[i].lower() not in MISSING})
            if len(words) > _MOST_WORDS:
                raise UserError(
                    f"column {name!r} has {len(words):,} different words, at most {_MOST_WORDS} are categories; "
                    f"leave it out: data.drop=[{name}]."
                )
            columns += [Column(name, tuple(words))] if words else []
            continue
        numbers = np.array(values, np.float64)[train]
        known = numbers[np.isfinite(numbers)]
        if not len(known):
            raise UserError(f"column {name!r} holds no number in the training rows; leave it out: data.drop=[{name}].")
        mean, spread = mean_and_spread(known)
        if not np.isfinite(spread):
            raise UserError(
                f"column {name!r} holds numbers up to {np.abs(known).max():.3g}, too large to learn from; "
                f"leave it out: data.drop=[{name}]."
            )
        columns.append(Column(name, (), float(mean), float(spread)))
    if not columns:
        raise UserError("the table has no column from which anything could be predicted.")
    return Encoder(tuple(columns))


def column(table: Table, name: str) -> list[str]:
    """The cells (N) of a column."""
    place = table.header.index(name)
    return [row[place] for row in table.rows]


def _refuse_decimal_commas(table: Table, name: str) -> None:
    """Raise UserError when most words of a column are numbers as some languages write them."""
    cells = column(table, name)
    if sum(_DECIMAL_COMMA.fullmatch(cell) is not None for cell in cells) > len(cells) // 2:
        first = next(i for i, cell in enumerate(cells) if _DECIMAL_COMMA.fullmatch(cell))
        raise UserError(
            f"column {name!r}, line {table.lines[first]}: {cells[first]!r} has a decimal comma; numbers need a point: "
            f"{cells[first].replace(',', '.')}."
        )


def _refuse_a_word_among_numbers(table: Table, name: str, values: list[float | None]) -> None:
    """Raise UserError when most cells of a column are numbers, and some are not."""
    if sum(value is None for value in values) <= sum(value is not None and value == value for value in values):
        first = values.index(None)
        cell, line = table.rows[first][table.header.index(name)], table.lines[first]
        raise UserError(
            f"column {name!r}, line {line}: {cell!r} is no number, as most cells of the column are; correct it, empty "
            f"it, or say that all are words: data.categories=[{name}]."
        )


def _number(cell: str) -> float | None:
    if "_" in cell:  # which Python's numbers may have
        return None
    try:
        return float(cell)
    except ValueError:
        return None
