"""Whether somebody wanted the process to stop: an interrupt that comes while C code imports a module may be lost."""

from __future__ import annotations

_asked = False


def note() -> None:
    """Remember that an interrupt has come."""
    global _asked
    _asked = True


def forget() -> None:
    """Begin anew: none has come."""
    global _asked
    _asked = False


def asked() -> bool:
    """Whether one has come."""
    return _asked


def raise_if_lost() -> None:
    """Raise KeyboardInterrupt when one has come and nobody has raised it; before what takes long."""
    if _asked:
        raise KeyboardInterrupt
