"""lab dashboard: a W&B workspace and report for the runs of a group, with the panels that their metrics ask for.

Built and validated offline from the run directories on this machine; saved when there is a key.
"""

from __future__ import annotations

import argparse

from lab.compare.workspace import build, group_of
from lab.errors import Failure, UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("group", metavar="GROUP", help="a tracking.group, or a recipe's name where none was set")
    parser.add_argument("--runs", nargs="+", metavar="RUN", help="where its runs are (default: LAB_RUNS or ./runs)")
    parser.add_argument("--entity", help="the W&B entity; by default the runs' own, or yours")
    parser.add_argument("--project", help="the W&B project; by default the runs' own")


def run(arguments: argparse.Namespace) -> int:
    from lab.compare import records
    from lab.runs import directory
    from lab.runs.tracking import has_key

    found = records.read_all(directory.find(arguments.runs or [str(directory.runs_root())]))
    members = [record for record in found if group_of(record) == arguments.group]
    if not members:
        known = ", ".join(sorted({group_of(record) for record in found}))
        raise UserError(f"there are no runs of the group {arguments.group!r} here. Groups: {known}.")
    project = arguments.project or str(members[0].config.get("tracking.project") or "lab")
    entity = arguments.entity or members[0].config.get("tracking.entity")
    keyed = has_key()
    if keyed and entity is None:
        import wandb

        entity = wandb.Api().default_entity
    made = build(members, arguments.group, str(entity or "entity"), project)
    for part in made:
        part._to_model()
    metrics = len({name for record in members for name in record.curves})
    print(f"workspace and report of {arguments.group}: {len(members)} runs, {metrics} metrics, valid")
    if not keyed:
        print("not saved: there is no W&B key. Set WANDB_API_KEY or run wandb login, then the same again.")
        return 0
    for part in made:
        try:
            print(f"saved: {part.save().url}")
        except Exception as error:  # the client raises many kinds
            raise Failure(f"W&B did not take it: {' '.join(str(error).split())[:300]}") from error
    return 0
