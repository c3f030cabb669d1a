"""Cores divided among processes that work in step."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cluster.session import cores


@pytest.mark.parametrize(
    ("available", "num", "each"),
    [
        ([0, 1], 1, [[0, 1]]),
        ([0, 1], 2, [[0], [1]]),
        ([4, 5], 6, [[4], [5], [4], [5], [4], [5]]),
        ([0, 1, 2, 3], 2, [[0, 1], [2, 3]]),
        ([0, 1, 2, 3], 3, [[0, 1, 2, 3]] * 3),
        ([0, 1], 3, [[0, 1]] * 3),
    ],
)
def test_cores_are_divided_evenly_or_not_at_all(
    available: list[int], num: int, each: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(available))
    assert cores.divided(num) == each


def test_all_threads_keep_to_the_cores() -> None:
    script = """
import os, threading
from pathlib import Path
from cluster.session.cores import keep_to
release = threading.Event()
threading.Thread(target=release.wait).start()
core = max(os.sched_getaffinity(0))
keep_to([core])
threading.Thread(target=release.wait).start()
affinities = [os.sched_getaffinity(int(thread.name)) for thread in Path("/proc/self/task").iterdir()]
release.set()
print(len(affinities) >= 3 and all(one == {core} for one in affinities))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
