"""Processes that work in step each keep to cores of their own.

Left alone, the kernel lets two of them share a core for long while another core is idle, since each process is asleep
whenever the kernel looks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


def divided(num: int) -> list[list[int]]:
    """This machine's cores for each of `num` processes; where they cannot be divided evenly, all of them for each."""
    cores = sorted(os.sched_getaffinity(0))
    if num % len(cores) == 0:
        return [[cores[index % len(cores)]] for index in range(num)]
    if len(cores) % num == 0:
        each = len(cores) // num
        return [cores[index * each : (index + 1) * each] for index in range(num)]
    return [cores] * num


def keep_to(cores: Iterable[int]) -> None:
    """Keep this process on some cores: the threads that it has, and those that they will start."""
    allowed = set(cores)
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            os.sched_setaffinity(int(thread.name), allowed)
