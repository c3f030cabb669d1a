"""What a model says of an input to a person."""

from __future__ import annotations

from typing import Any, NamedTuple


class Answer(NamedTuple):
    """`label` in a word or two; `details` are numbers by name, or numbers by name by name."""

    label: str
    details: dict[str, Any]
