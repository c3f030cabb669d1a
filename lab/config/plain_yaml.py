"""YAML from anywhere, read as plain values: no tags that make objects, and no more values than the text itself has.

A few lines of aliases can stand for billions of values, and deep nesting ends the interpreter: both are told from the
parser's events, before anything is made of them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from lab.foreign import read_regular

_MAX_BYTES = 4 * 2**20
_MAX_VALUES = 200_000
_MAX_DEPTH = 50
_EXPONENT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_Plain: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(_Plain):
    """Plain values, and 1e-3 is a number."""


class Dumper(yaml.SafeDumper):
    """Quotes words that the Loader would take for numbers."""


for _class in (Loader, Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def parse(text: str) -> Any:
    """The value of a YAML text. Raises yaml.YAMLError when it is none, or larger or deeper than any of ours."""
    _check(text)
    try:
        return yaml.load(text, Loader)
    except ValueError as error:  # a number of thousands of digits, a 13th month
        raise yaml.YAMLError(str(error)) from None


def read(path: Path) -> Any:
    """The value of a YAML file. Raises OSError, UnicodeDecodeError, and what `parse` raises."""
    return parse(read_regular(path, _MAX_BYTES).decode("utf-8"))


def _check(text: str) -> None:
    """Count values as they would be with every alias written out, and levels."""
    sizes: dict[str, int | None] = {}  # of anchored values; None while one is still open
    stack: list[tuple[str | None, int]] = [(None, 0)]  # the open collections: anchor, values so far
    for event in yaml.parse(text, Loader=_Plain):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            if anchor is not None:
                sizes[anchor] = None
            stack.append((anchor, 1))
            if len(stack) > _MAX_DEPTH:
                raise yaml.YAMLError(f"it is nested more than {_MAX_DEPTH} levels deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            name, size = stack.pop()
            if name is not None:
                sizes[name] = size
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                continue  # the loader says so
            known = sizes[anchor]
            if known is None:
                raise yaml.YAMLError(f"*{anchor} stands within itself")
            size = known
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if anchor is not None:
                sizes[anchor] = 1
        else:
            continue
        above, count = stack[-1]
        stack[-1] = (above, count + size)
        if count + size > _MAX_VALUES:
            raise yaml.YAMLError(f"it holds more than {_MAX_VALUES:,} values, aliases written out")
