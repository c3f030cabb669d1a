"""What a sweep varies: `field=a,b` is a grid, `field=log(1e-5,1e-2)`, `uniform(0,1)` and `int(1,8)` are ranges.

    parse(["module.gamma=0.97,0.99", "module.optimizer.lr=log(1e-5,1e-2)", "trainer.budget=1000", "seed=3,4"])

`seed` is no value to compare: its numbers are the seeds of every point.
Commas inside brackets or quotes belong to a value: `module.backbone.hidden=[64,64],[128,128]` is a grid of two.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from lab.errors import UserError

RangeKind = Literal["log", "uniform", "int"]
_RANGE = re.compile(r"^([A-Za-z_]+)\((.*)\)$")


class Range(NamedTuple):
    """An interval to search: "log" and "uniform" are continuous, "int" holds both ends."""

    kind: RangeKind
    low: float
    high: float

    def sample(self, generator: np.random.Generator) -> float:
        """A random value."""
        if self.kind == "int":
            return int(generator.integers(int(self.low), int(self.high) + 1))
        low, high = self._scale(self.low), self._scale(self.high)
        return self._round(self._unscale(generator.uniform(low, high)))

    def position(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high end, on the scale of the range."""
        low, high = self._scale(self.low), self._scale(self.high)
        return (self._scale(value) - low) / (high - low)

    def narrowed(self, around: float, share: float) -> Range:
        """The part of this range that spans `share` of it, centred on `around` as far as the ends allow."""
        low, high = self._scale(self.low), self._scale(self.high)
        half = (high - low) * share / 2
        centre = min(max(self._scale(around), low + half), high - half)
        if self.kind == "int":
            return Range("int", math.floor(centre - half), math.ceil(centre + half))
        return Range(self.kind, self._round(self._unscale(centre - half)), self._round(self._unscale(centre + half)))

    def moved(self, value: float, share: float) -> float:
        """`value` moved by a share of the range's width (whole numbers by one at least), held inside."""
        low, high = self._scale(self.low), self._scale(self.high)
        step = (high - low) * share
        if self.kind == "int":
            step = math.copysign(max(1.0, abs(round(step))), share)
        result = self._unscale(min(max(self._scale(value) + step, low), high))
        return int(result) if self.kind == "int" else self._round(result)

    def _scale(self, value: float) -> float:
        return math.log(value) if self.kind == "log" else float(value)

    def _unscale(self, value: float) -> float:
        return math.exp(value) if self.kind == "log" else value

    @staticmethod
    def _round(value: float) -> float:
        return float(f"{value:.4g}")


class Space(NamedTuple):
    """Overrides that all runs share, values to combine, ranges to search, and the seeds of each point if they are
    named."""

    fixed: tuple[str, ...]
    grid: dict[str, list[str]]
    ranges: dict[str, Range]
    seeds: tuple[int, ...] = ()

    def points(self) -> Iterator[dict[str, str]]:
        """Every combination of the grid's values."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))

    def sample(self, generator: np.random.Generator) -> dict[str, str]:
        """A random value of each range, as the text of an override."""
        return {field: as_text(whole.sample(generator)) for field, whole in self.ranges.items()}


def parse(overrides: Sequence[str]) -> Space:
    """Tell fixed overrides, grids and ranges apart.

    Raises UserError for what is no override or no range, and for a field or a value of it that is named twice: the same
    runs would count as several.
    """
    fixed: list[str] = []
    grid: dict[str, list[str]] = {}
    ranges: dict[str, Range] = {}
    seeds: tuple[int, ...] = ()
    fields: set[str] = set()
    for item in overrides:
        field, equals, text = item.partition("=")
        if not equals or not field:
            raise UserError(f"{item!r} is not an override; write field=value, field=a,b or field=log(1e-5,1e-2).")
        if field in fields:
            raise UserError(f"{field} is set twice, the second time by {item!r}; write {field}=a,b to compare values.")
        fields.add(field)
        values = split_values(text)
        _check_distinct(item, values)
        call = _RANGE.match(text)
        if field == "seed":
            seeds = _seeds(item, values)
        elif call and len(values) == 1:
            ranges[field] = _range(field, *call.groups())
        elif len(values) > 1:
            if "" in values:
                raise UserError(f"{item!r} has an empty value between its commas.")
            grid[field] = values
        else:
            fixed.append(item)
    return Space(tuple(fixed), grid, ranges, seeds)


def split_values(text: str) -> list[str]:
    """Split at the commas that stand outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def as_text(value: float) -> str:
    """A number as it stands in an override."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _check_distinct(item: str, values: Sequence[str]) -> None:
    """Raise UserError where two values are one, also in another spelling (1e-3 and 0.001)."""
    texts: dict[object, str] = {}
    for text in values:
        try:
            key: object = float(text)
        except ValueError:
            key = text
        if key in texts:
            same = f"{text} twice" if text == texts[key] else f"{texts[key]} and {text}, which are one value"
            raise UserError(f"{item!r} names {same}; leave one out.")
        texts[key] = text


def _seeds(item: str, values: Sequence[str]) -> tuple[int, ...]:
    if not all(text.isascii() and text.isdigit() for text in values):
        raise UserError(f"{item!r} is not valid: seeds are whole numbers from 0 on, for example seed=3 or seed=3,4,5.")
    return tuple(map(int, values))


def _range(field: str, kind: str, arguments: str) -> Range:
    kinds = get_args(RangeKind)
    if kind not in kinds:
        raise UserError(f"{field}={kind}({arguments}): unknown range {kind!r}. Valid choices: {', '.join(kinds)}.")
    try:
        low, high = (float(part) for part in arguments.split(","))
    except ValueError:
        raise UserError(f"{field}={kind}({arguments}): a range is written {kind}(low,high).") from None
    if not low < high or (kind == "log" and low <= 0) or (kind == "int" and (low % 1 or high % 1)):
        condition = {"log": "0 < low < high", "int": "whole numbers low < high", "uniform": "low < high"}[kind]
        raise UserError(f"{field}={kind}({arguments}): a range needs {condition}.")
    return Range(kind, low, high)  # type: ignore[arg-type]
