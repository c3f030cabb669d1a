"""When a run last wrote something, which is how its driver knows that it does not hang."""

from __future__ import annotations

from pathlib import Path

_FILES = ("result.json", "metrics.jsonl", "log.txt")


def last_sign(run: Path) -> float:
    """The time, in seconds since the epoch, at which a run's directory last showed progress; 0 when it never did."""
    return max(modified(run / name) for name in _FILES)


def modified(path: Path) -> float:
    """When a file was last written, in seconds since the epoch; 0 when there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
