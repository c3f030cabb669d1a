"""Tracking with W&B through Lightning's logger: online when a key is configured, else offline.

Never asks, never waits for an answer, never fails a run. Rows go out once a checkpoint covers them, so that the parts
that a killed and resumed run leaves behind double nothing; what its client had not written when it was killed is sent
again.
"""

from __future__ import annotations

import json
import logging
import netrc
import os
import secrets
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from lab.config import serialization
from lab.experiment import Experiment
from lab.lightning import WandbLogger
from lab.runs.directory import Run
from lab.runs.files import write_atomic
from lab.runs.metrics_file import MetricsFile, offset_of
from lab.runs.wandb_files import num_rows_held, set_aside_cut, wait_for_end

log = logging.getLogger("lab")

_INIT_TIMEOUT_SECONDS = 20.0
_END_TIMEOUT_SECONDS = 10.0


class Tracker:
    """The W&B run of a run directory, or nothing when tracking is disabled."""

    def __init__(self, experiment: Experiment, run: Run, counter: str, family: str) -> None:
        self.run, self.counter = run, counter
        self.logger: WandbLogger | None = None
        self._state_path = run.path / ".tracked.json"
        self._sent, self._rows = self._read_state()
        if experiment.tracking.mode != "disabled" and os.environ.get("WANDB_MODE") != "disabled":
            self._go_back_to_what_is_held()
            wandb_run = _init(experiment, run, counter, family)
            if wandb_run is not None:
                self.logger = WandbLogger(experiment=wandb_run)

    def _go_back_to_what_is_held(self) -> None:
        """Count as sent only the rows that earlier offline parts hold on disk."""
        set_aside_cut(self.run.path)
        held = num_rows_held(self.run.path)
        if held is not None and held < self._rows:
            self._sent, self._rows = offset_of(self.run.metrics_path, held), held

    def flush(self, metrics: MetricsFile, offset: int) -> None:
        """Send the rows, pictures and films up to a durable checkpoint's `offset` in the metrics file, each once."""
        if self.logger is None or offset <= self._sent:
            return
        try:
            for row in metrics.rows_between(self._sent, offset):
                self._send(row, self._rows)
                self._rows += 1
        except Exception as error:  # whatever the client raises, training goes on
            log.warning("tracking failed and is left out from here on: %s", error)
            self.logger = None
            return
        self._sent = offset
        write_atomic(self._state_path, json.dumps({"offset": offset, "rows": self._rows}))

    def finish(self, status: str, summary: dict[str, Any]) -> None:
        """End the W&B run."""
        if self.logger is None:
            return
        try:
            run = self.logger.experiment
            run.summary.update({"status": status, **summary})
            run.finish(exit_code=0 if status in ("completed", "interrupted") else 1)
            if not wait_for_end(self.run.path, _END_TIMEOUT_SECONDS):
                log.warning("the offline W&B run in %s was not written to its end", self.run.path / "wandb")
        except Exception as error:
            log.warning("tracking could not be finished: %s", error)

    def _send(self, row: dict[str, Any], step: int) -> None:
        """Send a row as the `step`-th of the whole run, whichever fragment it goes into."""
        assert self.logger is not None
        pictures = {name: self.run.path / path for name, path in row.pop("pictures", {}).items()}
        films = {name: self.run.path / path for name, path in row.pop("films", {}).items()}
        histograms, _ = row.pop("histograms", {}), row.pop("classes", None)
        values: dict[str, Any] = {key: value for key, value in row.items() if value is not None}
        if pictures or films or histograms:
            import numpy as np
            import wandb

            values |= {f"pictures/{name}": wandb.Image(str(path)) for name, path in pictures.items() if path.is_file()}
            values |= {
                f"histograms/{name}": wandb.Histogram(np_histogram=(counts, np.linspace(low, high, len(counts) + 1)))
                for name, (low, high, counts) in histograms.items()
            }
            values |= {
                f"films/{name}": wandb.Video(str(path), format="mp4") for name, path in films.items() if path.is_file()
            }
        self.logger.experiment.log(values, step=step)

    def _read_state(self) -> tuple[int, int]:
        try:
            state = json.loads(self._state_path.read_text())
            return int(state["offset"]), int(state["rows"])
        except (OSError, ValueError, KeyError):
            return 0, 0


Mode = Literal["online", "offline"]


def mode_of(experiment: Experiment) -> Mode:
    """online or offline, decided from the configuration and the environment, without asking."""
    if experiment.tracking.mode in ("online", "offline"):
        return experiment.tracking.mode
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun"):
        return "offline"
    return "online" if has_key() else "offline"


def has_key() -> bool:
    """Whether the W&B client has a key for its server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import wandb

    host = urlparse(wandb.setup().settings.base_url).hostname or ""
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _init(experiment: Experiment, run: Run, counter: str, family: str) -> Any:
    import wandb

    os.environ.setdefault(
        "WANDB_DISABLE_WEAVE", "true"
    )  # the client takes our `agents` for another package of that name
    tracking = experiment.tracking
    modes: list[Mode] = [mode_of(experiment), "offline"]
    for mode in dict.fromkeys(modes):
        try:
            wandb_run = wandb.init(
                mode=mode,
                dir=str(run.path),
                id=_run_id(run),
                resume="allow" if mode == "online" else None,
                name=run.path.name,
                project=tracking.project,
                entity=tracking.entity,
                group=tracking.group or experiment.name,
                job_type=tracking.job_type,
                tags=(*tracking.tags, family),
                notes=tracking.notes,
                config=serialization.dump(experiment),
                reinit="create_new",
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    x_transaction_log_flush_interval=1,
                    init_timeout=_INIT_TIMEOUT_SECONDS,
                    disable_git=True,
                    x_disable_stats=mode == "offline",
                ),
            )
        except Exception as error:  # no network, a refused key, a full disk: the run matters more
            log.warning("W&B %s tracking could not start: %s", mode, error)
            continue
        wandb_run.define_metric(counter)
        wandb_run.define_metric("*", step_metric=counter)
        return wandb_run
    return None


def _run_id(run: Run) -> str:
    """One id for the fragments of a run, kept in its directory."""
    path = run.path / ".wandb_id"
    if not path.is_file():
        write_atomic(path, secrets.token_hex(4))
    return path.read_text(encoding="utf-8").strip()
