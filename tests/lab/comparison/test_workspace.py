"""The W&B workspace and report, validated offline; online runs as records."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from lab.comparison import online, records, summary
from lab.comparison.workspace import build
from lab.errors import Failure, UserError
from lab.runs.directory import find
from tests.lab.comparison.synthetic import make_demo, make_run

pytest.importorskip("wandb_workspaces", reason="lab[dashboard] is not installed")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder)
    return folder


def test_a_dashboard_has_the_panels_of_its_family(demo):
    members = [run for run in map(records.read, find([str(demo)])) if run.recipe == "vae/digits"]
    workspace, report = build(members, "vae/digits", "me", "lab")
    assert [section.name for section in workspace.sections] == ["Evaluation", "Losses", "Pictures"]
    assert [panel.y for panel in workspace.sections[0].panels] == [["eval/nll"]]
    assert workspace.settings.x_axis == "samples"
    view = json.dumps(workspace._to_model().model_dump(mode="json", by_alias=True))
    assert "vae/digits" in view
    assert "pictures/samples" in view
    spec = json.dumps(report._to_model().model_dump(mode="json", by_alias=True))
    assert "eval/nll" in spec


def test_seeds_are_grouped_by_what_else_varies(demo):
    members = [run for run in map(records.read, find([str(demo)])) if run.recipe == "dqn/cartpole"]
    workspace, report = build(members, "dqn/cartpole", "me", "lab")
    assert [key.name for key in workspace.runset_settings.groupby] == ["name.value", "module.value.gamma"]
    assert "module.value.gamma" in json.dumps(report._to_model().model_dump(mode="json", by_alias=True))


def test_the_command_without_a_key(lab, demo, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    done = lab("dashboard", "dqn/cartpole", "--runs", demo)
    assert (done.code, "12 runs" in done.out, "not saved" in done.out) == (0, True, True)
    done = lab("dashboard", "nothing", "--runs", demo)
    assert (done.code, "Groups: dqn/cartpole" in done.err) == (2, True)


def online_run(run):
    """What the client's API gives for a run that was uploaded."""
    tree = {}
    for name, value in records.read_config(run.path / "experiment.yaml").items():
        node = tree
        *parents, last = name.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    rows = [row | {"_step": step} for step, row in enumerate(run.metrics())]
    summary = {"monitor": {"metric": "eval/return", "mode": "max"}, "status": "completed"}
    return SimpleNamespace(name=run.path.name, url="https://example/run", group="g", state="finished", config=tree,
                           summary=summary, scan_history=lambda: reversed(rows))  # fmt: skip


def test_online_runs_compare_like_local_ones(tmp_path):
    local = [make_run(tmp_path, seed=seed, fields={"module.gamma": g}) for seed in range(2) for g in (0.9, 0.99)]
    asked = {}

    class Api:
        def runs(self, path, filters):
            asked.update(path=path, **filters)
            return [online_run(run) for run in local]

    read = online.read_online("wandb:me/lab/my/group", Api())
    assert asked == {"path": "me/lab", "group": "my/group"}
    (there,) = summary.sections(read)
    (here,) = summary.sections([records.read(run) for run in local])
    assert [row.values for row in there.rows] == [row.values for row in here.rows]
    assert [row.group.label for row in there.rows] == [row.group.label for row in here.rows]
    assert there.mode == "max"


def test_online_errors_are_sentences(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    for reference, said in [("wandb:me", "is not wandb:entity"), ("wandb:me/lab", "no W&B key")]:
        with pytest.raises(UserError, match=said):
            online.read_online(reference)

    def refuse(path, filters):
        raise OSError("connection refused")

    with pytest.raises(Failure, match="connection refused"):
        online.read_online("wandb:me/lab", SimpleNamespace(runs=refuse))
    with pytest.raises(UserError, match="no runs at"):
        online.read_online("wandb:me/lab", SimpleNamespace(runs=lambda path, filters: []))
