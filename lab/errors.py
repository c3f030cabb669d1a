"""The two ways a command can end badly: what the user gave is wrong (exit code 2), or something failed (1)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_MAX_LISTED = 40


class UserError(ValueError):
    """Bad input, said in one sentence that names the field, the value and the valid choices."""


class Failure(RuntimeError):
    """Something that was asked for rightly and could not be done, said in one sentence."""


def shortened(value: object) -> str:
    """A value as a sentence shows it."""
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."


def reason(kind: str, value: object, message: str) -> str:
    """Why a value is not valid, from pydantic's error of that kind and its message."""
    if kind == "tuple_type" and isinstance(value, str | int | float):
        return f"write it as a list: [{str(value).strip('()')}]"
    return message[0].lower() + message[1:]


def unknown(what: str, value: object, choices: Iterable[str], elsewhere: Sequence[str] = ()) -> UserError:
    """The error for a name that is none of `choices`, with the nearest one first, or what it names `elsewhere`."""
    names = sorted(choices)
    near = list(elsewhere[:2]) or difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    if len(names) > _MAX_LISTED:
        nearest = difflib.get_close_matches(str(value), names, n=10, cutoff=0.0)
        listed = f"{', '.join(nearest)} and {len(names) - len(nearest)} others"
    else:
        listed = ", ".join(names) or "none"
    return UserError(f"unknown {what} {str(value)!r}.{hint} Valid choices: {listed}.")
