"""Runs on W&B as records: `lab compare wandb:entity/project/group`."""

from __future__ import annotations

from typing import Any

from lab.comparison.records import Record, curves_of
from lab.config.serialization import flatten
from lab.errors import Failure, UserError

PREFIX = "wandb:"
_STATUS = {"finished": "completed", "crashed": "stopped", "killed": "interrupted"}


def read_online(reference: str, api: Any = None) -> list[Record]:
    """The runs of `wandb:entity/project[/group]`.

    Raises:
        UserError: for a reference of another form, without a key, or when there are no such runs.
        Failure: when the service does not answer.
    """
    parts = reference.removeprefix(PREFIX).split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise UserError(f"{reference!r} is not wandb:entity/project or wandb:entity/project/group.")
    if api is None:
        api = _api()
    filters = {"group": parts[2]} if len(parts) == 3 else {}
    try:
        found = [_record(run) for run in api.runs(f"{parts[0]}/{parts[1]}", filters=filters)]
    except UserError:
        raise
    except Exception as error:  # the client raises many kinds
        raise Failure(f"{reference} could not be read: {' '.join(str(error).split())[:300]}") from error
    if not found:
        raise UserError(f"there are no runs at {reference!r}.")
    return found


def _api() -> Any:
    from lab.runs.tracking import has_key

    if not has_key():
        raise UserError("there is no W&B key: set WANDB_API_KEY or run wandb login.")
    import wandb

    return wandb.Api()


def _record(run: Any) -> Record:
    """A run of the lab's: its config is an experiment, its history has the counter and the seconds."""
    config = flatten({key: value for key, value in run.config.items() if not key.startswith("_")})
    rows = sorted(run.scan_history(), key=lambda row: row.get("_step", 0))
    counter = "env_steps" if any("env_steps" in row for row in rows) else "samples"
    last = rows[-1] if rows else {}
    summary = dict(run.summary)
    result = {
        "recipe": str(config.get("name") or run.group or run.name),
        "seed": int(config.get("seed") or 0),
        "status": summary.get("status") or _STATUS.get(run.state, run.state),
        "counter": counter,
        counter: last.get(counter, 0),
        "seconds": last.get("seconds", 0.0),
        "monitor": summary.get("monitor"),
    }
    if not result["monitor"]:
        names = sorted({name for row in rows for name in row if name.startswith("eval/")})
        result["monitor"] = {"metric": names[0]} if names else None
    return Record(name=run.name, path=None, url=run.url, result=result, config=config, curves=curves_of(rows, counter))
