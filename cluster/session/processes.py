"""Processes of this machine as /proc shows them."""

from __future__ import annotations

from pathlib import Path

_STATE, _SESSION, _START_TIME = 0, 3, 19  # fields of /proc/PID/stat, counted after the name


def start_time(pid: int) -> float | None:
    """When a process started, in clock ticks since boot; None when it has ended.

    That tells it from a later process with the same id.
    """
    fields = _fields(Path(f"/proc/{pid}/stat"))
    return None if fields is None or fields[_STATE] == "Z" else float(fields[_START_TIME])


def session_members(leader: int) -> dict[int, float]:
    """The processes of the session that `leader` leads, with their start times."""
    stats = {int(path.parent.name): _fields(path) for path in Path("/proc").glob("[0-9]*/stat")}
    return {
        pid: float(fields[_START_TIME]) for pid, fields in stats.items() if fields and int(fields[_SESSION]) == leader
    }


def _fields(path: Path) -> list[str] | None:
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return None
