"""What a run uses of its machine, every few seconds, in a file of its own: `system.jsonl` in the run directory.

These rows follow the clock, not the training, and so stand apart from the metrics, which repeat exactly.
"""

from __future__ import annotations

import json
import time
from typing import Any

import psutil
import torch
from lightning.pytorch import Callback, Trainer

from lab.training.learner import Learner
from lab.training.loop import RunLoop

_PERIOD_SECONDS = 5.0
_FIRST_SECONDS = 1.0
_GB = 1e9


class SystemUse(Callback):
    """Appends a row of CPU, memory and GPU use to the run that `loop` trains."""

    def __init__(self, loop: RunLoop) -> None:
        self.loop, self.path = loop, loop.run.system_path
        self._process = psutil.Process()
        self._due = self._since = self._cpu_seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Cut back to the checkpoint that a resumed run goes on from."""
        module: Learner = pl_module
        if not self.loop.writes:
            return
        if self.path.is_file():
            rows = [
                json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line.endswith("}")
            ]
            kept = [row for row in rows if row.get("seconds", 0.0) <= self.loop.state["seconds"]]
            self.path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self._since, self._cpu_seconds = time.perf_counter(), self._used()[0]
        self._due = self._since + _FIRST_SECONDS
        if module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(module.device)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.loop.writes and time.perf_counter() >= self._due:
            self._write(pl_module)

    def _write(self, module: Learner) -> None:
        now, (cpu_seconds, memory) = time.perf_counter(), self._used()
        row = {
            module.counter: module.counters[module.counter],
            "seconds": round(self.loop.state["seconds"], 3),
            "system/cpu_cores": round((cpu_seconds - self._cpu_seconds) / (now - self._since), 3),
            "system/memory_gb": round(memory / _GB, 3),
            **_gpu_use(module.device),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._since, self._cpu_seconds, self._due = now, cpu_seconds, now + _PERIOD_SECONDS

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
