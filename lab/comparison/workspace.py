"""A W&B workspace and report for the runs of a group, with the panels that their metrics ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lab.comparison.groups import group
from lab.comparison.records import Record
from lab.errors import Failure, UserError
from lab.runs.tracking import has_key

_TITLES = {"eval": "Evaluation", "losses": "Losses", "charts": "Training"}


def group_of(record: Record) -> str:
    """The W&B group of a run."""
    return str(record.config.get("tracking.group") or record.recipe)


def members_of(name: str, runs: Sequence[Record]) -> list[Record]:
    """The runs of a W&B group. Raises UserError when there are none."""
    members = [record for record in runs if group_of(record) == name]
    if not members:
        groups = ", ".join(sorted({group_of(record) for record in runs}))
        raise UserError(f"there are no runs of the group {name!r} here. Groups: {groups}.")
    return members


def place_of(members: Sequence[Record]) -> tuple[str, str]:
    """The W&B entity and project of a group's runs; where they name no entity, that of the key, if there is one."""
    config = members[0].config
    entity = config.get("tracking.entity")
    if entity is None and has_key():
        import wandb

        entity = wandb.Api().default_entity
    return str(entity or "entity"), str(config.get("tracking.project") or "lab")


def save(part: Any) -> str:
    """Save a workspace or a report on W&B and return its address. Raises Failure when W&B refuses it."""
    try:
        return str(part.save().url)
    except Exception as error:  # the client raises many kinds
        raise Failure(f"W&B did not take it: {' '.join(str(error).split())[:300]}") from error


def build(members: Sequence[Record], name: str, entity: str, project: str) -> tuple[Any, Any]:
    """A workspace and a report of a group's runs, valid; seeds of one configuration are drawn as one line.

    Raises UserError when wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise UserError("lab dashboard needs wandb-workspaces: pip install 'lab[dashboard]'.") from None
    counter = members[0].counter
    varied = dict.fromkeys(field for found in group(members) for field in found.varied)
    filters = [workspaces.Metric("Group") == name]
    keys: list[Any] = [workspaces.Config(stored(field)) for field in ("name", *varied)]
    sections = [
        workspaces.Section(name=title, panels=_panels(reports, title, names, counter), is_open=title != "Training")
        for title, names in _by_section(members).items()
    ]
    workspace = workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        settings=workspaces.WorkspaceSettings(x_axis=counter),
        runset_settings=workspaces.RunsetSettings(filters=filters, groupby=keys),
    )
    shown = reports.Runset(  # of the report's own project: naming one would ask the service for its number
        name=name,
        filters=filters,
        groupby=[f"config.{stored(field)}" for field in ("name", *varied)],
    )
    blocks: list[Any] = []
    for title, names in _by_section(members).items():
        blocks.append(reports.H2(title))
        blocks.append(reports.PanelGrid(runsets=[shown], panels=_panels(reports, title, names, counter)))
    report = reports.Report(entity=entity, project=project, title=name, blocks=blocks)
    for part in (workspace, report):
        part._to_model()  # which validates
    return workspace, report


def stored(field: str) -> str:
    """Where W&B keeps a nested config's field: `module.gamma` lies at `module.value.gamma`."""
    first, _, rest = field.partition(".")
    return f"{first}.value.{rest}" if rest else f"{first}.value"


def _by_section(members: Sequence[Record]) -> dict[str, list[str]]:
    """Metrics by the part before the slash, evaluation first; pictures last; W&B has its own panels for the system."""
    names = sorted({name for record in members for name in record.curves if not name.startswith("system/")})
    found: dict[str, list[str]] = {}
    for prefix in [*_TITLES, *(name.partition("/")[0] for name in names)]:
        matching = [name for name in names if name.startswith(f"{prefix}/")]
        if matching:
            found[_TITLES.get(prefix, prefix)] = matching
    pictures = sorted({f"pictures/{name}" for record in members for name in record.media.pictures})
    return found | ({"Pictures": pictures} if pictures else {})


def _panels(reports: Any, title: str, names: Sequence[str], counter: str) -> list[Any]:
    if title == "Pictures":
        return [reports.MediaBrowser(title=name, media_keys=[name]) for name in names]
    return [
        reports.LinePlot(title=name, x=counter, y=[name], aggregate=True, groupby_rangefunc="stderr") for name in names
    ]
