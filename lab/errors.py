"""The two ways a command can end badly: what the user gave is wrong (exit code 2), or something failed (1)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MAX_LISTED = 40


class UserError(ValueError):
    """Bad input, said in one sentence that names the field, the value and the valid choices."""


class Failure(RuntimeError):
    """Something that was asked for rightly and could not be done, said in one sentence."""


def unknown(what: str, value: object, choices: Iterable[str]) -> UserError:
    """The error for a name that is none of `choices`, with the nearest one first."""
    names = sorted(choices)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if len(names) > _MAX_LISTED:
        nearest = difflib.get_close_matches(str(value), names, n=10, cutoff=0.0)
        listed = f"{', '.join(nearest)} and {len(names) - len(nearest)} others"
    else:
        listed = ", ".join(names) or "none"
    return UserError(f"unknown {what} {str(value)!r}.{hint} Valid choices: {listed}.")
