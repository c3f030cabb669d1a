"""What a run uses of its machine, every few seconds, in a file of its own: `system.jsonl` in the run directory.

These rows follow the clock, not the training, and so stand apart from the metrics, which repeat exactly.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Protocol

import psutil
import torch

from lab.runs.metrics_file import rows_of

_PERIOD_SECONDS = 5.0
_FIRST_SECONDS = 1.0
_GB = 1e9


class _Status(Protocol):
    """What is asked of a run's status."""

    @property
    def counter(self) -> str: ...
    @property
    def count(self) -> int: ...
    @property
    def seconds(self) -> float: ...


class SystemUse:
    """An observer that appends rows of CPU, memory and GPU use to a file."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.device = path, device
        self._process = psutil.Process()
        self._due = self._since = self._cpu_seconds = 0.0

    def start(self, status: _Status) -> None:
        """Cut back to the checkpoint that a resumed run goes on from."""
        if self.path.is_file():
            rows = rows_of(self.path.read_bytes())
            covered = [row for row in rows if type(row.get("seconds")) is float and row["seconds"] <= status.seconds]
            self.path.write_text("".join(json.dumps(row) + "\n" for row in covered), encoding="utf-8")
        self._since, self._cpu_seconds = time.perf_counter(), self._used()[0]
        self._due = self._since + _FIRST_SECONDS
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def update(self, status: _Status) -> None:
        """A row, when it is time again."""
        now = time.perf_counter()
        if now < self._due:
            return
        cpu_seconds, memory = self._used()
        row = {
            status.counter: status.count,
            "seconds": round(status.seconds, 3),
            "system/cpu_cores": round((cpu_seconds - self._cpu_seconds) / (now - self._since), 3),
            "system/memory_gb": round(memory / _GB, 3),
            **_gpu_use(self.device),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._since, self._cpu_seconds, self._due = now, cpu_seconds, now + _PERIOD_SECONDS

    def work(self, work: str, done: int, total: int) -> None:
        """Nothing: rows belong to chunks."""

    def stop(self) -> None:
        """Nothing is open."""

    def _used(self) -> tuple[float, float]:
        """CPU seconds of this process and its children so far, and their resident bytes."""
        seconds = memory = 0.0
        for process in [self._process, *self._process.children(recursive=True)]:
            try:
                times = process.cpu_times()
                seconds += times.user + times.system
                memory += process.memory_info().rss
            except psutil.Error:  # it ended meanwhile
                continue
        return seconds, memory


def _gpu_use(device: torch.device) -> dict[str, float]:
    """How busy the GPU is and what is taken of its memory, by anybody; nothing without a GPU."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    use = {
        "system/gpu_memory_gb": round((total - free) / _GB, 3),
        "system/gpu_peak_gb": round(torch.cuda.max_memory_allocated(device) / _GB, 3),
    }
    try:
        use["system/gpu_percent"] = float(torch.cuda.utilization(device))
    except Exception:  # the driver's own library is absent, or will not say
        return use
    return use
