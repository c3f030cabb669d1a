"""lab dashboard: make a W&B workspace and report of a group.

The metrics of the runs say which panels there are. Both are built and validated offline from the run directories on
this machine, and saved when there is a key.
"""

from __future__ import annotations

import argparse

EXAMPLE = "lab dashboard dqn/cartpole"
ORDER = 170


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("group", metavar="GROUP", help="a tracking.group, or a recipe's name where none was set")
    parser.add_argument("--runs", nargs="+", metavar="RUN", help="where its runs are (default: LAB_RUNS or ./runs)")
    parser.add_argument("--entity", help="the W&B entity; by default the runs' own, or yours")
    parser.add_argument("--project", help="the W&B project; by default the runs' own")


def run(arguments: argparse.Namespace) -> int:
    from lab.comparison import records
    from lab.comparison.workspace import build, members_of, place_of, save
    from lab.runs import directory
    from lab.runs.tracking import has_key

    runs = records.read_all(directory.find(arguments.runs or [str(directory.runs_root())]))
    members = members_of(arguments.group, runs)
    entity, project = place_of(members)
    parts = build(members, arguments.group, arguments.entity or entity, arguments.project or project)
    num_metrics = len({name for record in members for name in record.curves})
    print(f"workspace and report of {arguments.group}: {len(members)} runs, {num_metrics} metrics, valid")
    if not has_key():
        print("not saved: there is no W&B key. Set WANDB_API_KEY or run wandb login, then the same again.")
        return 0
    for part in parts:
        print(f"saved: {save(part)}")
    return 0
