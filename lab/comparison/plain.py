"""A comparison as plain values, for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lab.comparison.summary import Row, Section


def plain(sections: Sequence[Section]) -> dict[str, Any]:
    """What `lab compare --json` prints."""
    return {"sections": [_section(section) for section in sections]}


def _section(section: Section) -> dict[str, Any]:
    return {
        "task": section.task,
        "across_tasks": section.across,
        "metric": section.metric,
        "mode": section.mode,
        "at": section.at,
        "counter": section.counter,
        "threshold": section.threshold,
        "groups": [plain_row(row) for row in section.rows],
        "profiles": {
            "thresholds": section.thresholds.tolist(),
            "shares": {
                row.group.label: profile.tolist() for row, profile in zip(section.rows, section.profiles, strict=True)
            },
        },
    }


def plain_row(row: Row) -> dict[str, Any]:
    """One group of a section."""
    return {
        "label": row.group.label,
        "recipe": row.group.recipe,
        "differs": row.group.varied,
        "runs": [
            {"run": str(run.path or run.url or run.name), "seed": run.seed, "status": run.status}
            for run in row.group.runs
        ],
        "values": row.values,
        "unmeasured": row.unmeasured,
        "iqm": row.iqm._asdict(),
        "mean": row.mean._asdict(),
        "median": row.median._asdict(),
        "best": row.best,
        "probability_first_is_better": row.against_first._asdict() if row.against_first else None,
        "reached": row.reached,
        "steps_to_threshold": row.steps_to,
        "seconds_to_threshold": row.seconds_to,
        "steps": row.steps,
        "seconds": row.seconds,
        "steps_per_second": row.steps_per_second,
    }
