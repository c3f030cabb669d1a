"""What tests of processes share."""

from __future__ import annotations

from pathlib import Path

import pytest


class Processes:
    """Which processes there are, from /proc."""

    @staticmethod
    def family(pid: int) -> set[int]:
        """A process and everything below it."""
        parents: dict[int, int] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(path.parent.name)] = int(fields[1])
        family, grown = {pid}, True
        while grown:
            more = {child for child, parent in parents.items() if parent in family}
            family, grown = family | more, not more <= family
        return family

    @staticmethod
    def command(pid: int) -> str:
        """What a process was started with, words ended by NUL; empty when it is gone."""
        try:
            return Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            return ""

    @staticmethod
    def alive(pids: set[int]) -> list[int]:
        def is_alive(pid: int) -> bool:
            try:
                return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
            except OSError:
                return False

        return [pid for pid in pids if is_alive(pid)]


@pytest.fixture(scope="session")
def processes() -> type[Processes]:
    """`family(pid)`: it and everything below it; `alive(pids)`: those that still run; `command(pid)`: its words."""
    return Processes
