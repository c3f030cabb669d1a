"""What a run writes down: rows of metrics, and how it stands."""

from __future__ import annotations

import logging
import math
import os
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from lab.errors import Failure
from lab.experiment import Experiment
from lab.ranks import ranks
from lab.runs.directory import FORMAT, Run
from lab.runs.metrics_file import MetricsFile
from lab.runs.provenance import environment
from lab.runs.tracking import Tracker
from lab.training.learner import Learner

log = logging.getLogger("lab")

_RESULT_SECONDS = 1.0


class Recorder:
    """Appends rows to the metrics file, sends those that a checkpoint covers to the tracker, keeps `result.json`."""

    def __init__(self, experiment: Experiment, run: Run, tracker: Tracker) -> None:
        self.experiment, self.run, self.tracker = experiment, run, tracker
        self.metrics_file = MetricsFile(run.metrics_path if ranks.rank() == 0 else Path(os.devnull))
        self.latest: dict[str, float] = {}
        self._environment = environment()
        self._result_written = 0.0

    def begin_anew(self) -> None:
        """Drop the rows of a run that ended before its first checkpoint."""
        self.metrics_file.truncate(0)

    def add_losses(self, module: Learner[Any], metrics: dict[str, Any], seconds: float) -> None:
        """A row of what training steps gave. Raises Failure when a loss is not finite."""
        row = {key: float(value) if isinstance(value, Tensor) else value for key, value in metrics.items()}
        count = module.counters[module.counter]
        for key, value in row.items():
            if key.startswith("losses/") and not math.isfinite(value):
                raise Failure(
                    f"{key} became {value} at {module.counter}={count:,}; "
                    f"a lower module.optimizer.lr or a max_grad_norm may help."
                )
        row["charts/steps_per_second"] = count / seconds if seconds else 0.0
        self.add(module, row, seconds)

    def add(self, module: Learner[Any], row: dict[str, Any], seconds: float) -> None:
        """A row of any values at the module's count."""
        self.latest |= {key: value for key, value in row.items() if isinstance(value, int | float)}
        self.metrics_file.append({**module.counters, "seconds": round(seconds, 3), **row})

    def state(self) -> dict[str, Any]:
        """What `last` keeps: how far the metrics file goes, on disk, and the latest values."""
        return {"metrics_offset": self.metrics_file.offset(), "latest": self.latest}

    def restore(self, loop: dict[str, Any]) -> None:
        """Cut the metrics file back to what `state` gave."""
        if ranks.rank() == 0 and not self.metrics_file.truncate(loop["metrics_offset"]):
            log.warning("%s is shorter than its checkpoint says: some rows of metrics are lost", self.metrics_file.path)
        self.latest = dict(loop["latest"])

    def flush(self, loop: dict[str, Any]) -> None:
        """Send the rows that a checkpoint with this state covers."""
        self.tracker.flush(self.metrics_file, loop["metrics_offset"])

    def result_is_due(self) -> bool:
        """Whether `result.json` is old enough to be written again."""
        return time.perf_counter() - self._result_written >= _RESULT_SECONDS

    def write_result(
        self, module: Learner[Any], counters: dict[str, int], *, status: str, error: str | None, **more: Any
    ) -> None:
        """Replace `result.json`; `more` are the budget, the seconds and the best evaluation."""
        self._result_written = time.perf_counter()
        self.run.write_result(
            {
                "format": FORMAT,
                "recipe": self.experiment.name,
                "status": status,
                "error": error,
                "seed": self.experiment.seed,
                "counter": module.counter,
                **counters,
                "workers": ranks.num_ranks(),
                "metrics": self.latest,
                "monitor": module.monitor._asdict(),
                **more,
                **self._environment,
            }
        )

    def close(self, module: Learner[Any], status: str) -> None:
        """End tracking and let go of the files."""
        summary = {key: value for key, value in self.latest.items() if key.startswith("eval/")}
        self.tracker.finish(status, {**summary, "monitor": module.monitor._asdict()})
        self.metrics_file.close()
