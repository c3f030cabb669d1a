"""Population based training: who takes over from whom, what is taken over, and that a killed driver changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.ranks.worker import Worker
from cluster.session.imports import Imports
from cluster.sweep.conduct import conduct, report
from cluster.sweep.search import make_search, pbt
from cluster.sweep.space import Range, parse
from cluster.sweep.sweep import Sweep, SweepConfig, SweepEntry
from lab import catalog
from lab.config import serialization
from lab.errors import UserError
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.seeding import derive_seed
from lab.training.train import train

SMALL = "recipes_for_tests:small"
LR = "module.optimizer.lr"


@pytest.fixture(autouse=True)
def _recipes_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    catalog.allow_import("recipes_for_tests")


def make(path: Path, *overrides: str, **settings: Any) -> Sweep:
    config = SweepConfig(
        name="test",
        targets=(SMALL,),
        overrides=(f"{LR}=log(1e-5,1e-1)", *overrides),
        search="pbt",
        imports=("recipes_for_tests",),
        **settings,
    )
    return Sweep.create(path, config)


def rows(path: Path) -> list[dict[str, Any]]:
    """A run's metrics without the clock."""
    clocks = ("seconds", "charts/steps_per_second")
    return [{key: value for key, value in row.items() if key not in clocks} for row in Run(path).metrics()]


def by_hand(sweep: Sweep) -> None:
    """What a driver does with a sweep, without Ray: one run after the other."""
    search = make_search(sweep, parse(sweep.settings.overrides))
    search.prepare()
    while True:
        sweep.entries += search.propose(8)
        waiting = [entry for entry in sweep.entries if entry.status == "waiting"]
        if not waiting:
            return
        for entry in waiting:
            experiment = sweep.experiment(entry, parse(sweep.settings.overrides).fixed)
            pause_at = search.pause_at(entry, experiment.trainer.budget)
            outcome = Worker(Imports([], []), {}, 0.0).train(
                serialization.dump(experiment), str(sweep.run_path(entry)), pause_at
            )
            entry.status = outcome.status  # type: ignore[assignment]


def test_a_population_is_the_same_on_a_cluster_and_whoever_dies(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"num_samples": 4, "generations": 3}
    calm = make(tmp_path / "calm", "trainer.budget=7680", **settings)
    assert report(calm, conduct(cluster, calm, quiet=True)) == 0
    assert [entry.status for entry in calm.entries] == ["completed"] * 4
    assert [entry.generation for entry in calm.entries] == [2] * 4
    lineages = {entry.folder: pbt.lineage(calm.run_path(entry)) for entry in calm.entries}
    assert sum(map(len, lineages.values())) == 2  # one of four, twice
    messages = capsys.readouterr().err
    for folder, lineage in lineages.items():
        for row in lineage:
            assert row["parent"] in lineages
            assert row["parent"] != folder
            assert row["score"] <= row["parent_score"]
            assert row["samples"] >= 2560 * row["generation"]
            assert f"{folder}: goes on from {row['parent']} (generation {row['generation']})" in messages
    for entry in calm.entries:  # what a run has become is what its experiment says
        experiment: Any = Run(calm.run_path(entry)).experiment()
        assert experiment.module.optimizer.lr == float(entry.values[LR])

    wild = make(tmp_path / "wild", "trainer.budget=7680", **settings)
    with monkeypatch.context() as patched:
        patched.setattr(pbt, "record", lambda *arguments: (_ for _ in ()).throw(RuntimeError("the driver died")))
        with pytest.raises(RuntimeError, match="the driver died"):
            by_hand(wild)
    wild = Sweep.open(tmp_path / "wild")
    assert sum(entry.inherits is not None for entry in wild.entries) == 1
    by_hand(wild)
    for one, other in zip(calm.entries, wild.entries, strict=True):
        assert rows(calm.run_path(one)) == rows(wild.run_path(other))
        assert pbt.lineage(calm.run_path(one)) == pbt.lineage(wild.run_path(other))


def test_what_is_taken_over_is_the_weights_and_the_optimizer(tmp_path: Path) -> None:
    sweep = make(tmp_path / "sweep", num_samples=2, generations=2)
    search = make_search(sweep, parse(sweep.settings.overrides))
    sweep.entries += search.propose(2)
    for entry, lr in zip(sweep.entries, ("1e-3", "1e-5"), strict=True):
        entry.values = {LR: lr}
        experiment = sweep.experiment(entry, ("trainer.budget=2560",))
        train(experiment, run_dir=sweep.run_path(entry), on_loop=lambda loop: setattr(loop, "pause_at", 1280))
        entry.status = "paused"
    before = [checkpoint.load(sweep.run_path(entry) / "checkpoints" / "last.ckpt") for entry in sweep.entries]
    assert search.propose(2) == []
    good, bad = sweep.entries
    assert (good.status, good.values[LR], good.generation) == ("waiting", "1e-3", 1)
    assert (bad.status, bad.inherits, bad.generation) == ("waiting", None, 1)
    after = checkpoint.load(sweep.run_path(bad) / "checkpoints" / "last.ckpt")
    for name, value in before[0]["state_dict"].items():
        assert torch.equal(value, after["state_dict"][name])
    moments = [content["train"]["updaters"] for content in (before[0], after)]
    assert repr(moments[0]) == repr(moments[1])
    for part in ("counters", "data", "loop", "best"):
        assert repr(after[part]) == repr(before[1][part]), part
    assert repr(after["rng"]) == repr(before[1]["rng"])


def test_whom_and_how_to_follow_is_seeded_by_generation_and_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make(tmp_path / "sweep", num_samples=8, search_seed=3)
    space = parse(sweep.settings.overrides)
    search = make_search(sweep, space)
    sweep.entries += search.propose(8)
    values = [dict(entry.values) for entry in sweep.entries]
    for entry in sweep.entries:
        entry.status, entry.generation = "paused", 2
    monkeypatch.setattr(pbt, "score", lambda sweep, entry: float(entry.index))  # the last two are the best
    monkeypatch.setattr(pbt, "inherit", lambda child, parent: None)
    monkeypatch.setattr(pbt, "record", lambda *arguments: False)
    search.propose(1)
    for index in (0, 1):
        generator = np.random.default_rng(derive_seed(3, "pbt", 2, index))
        parent = (7, 6)[int(generator.integers(2))]
        expected = pbt.explored(space.ranges[LR], float(values[parent][LR]), generator)
        assert float(sweep.entries[index].values[LR]) == pytest.approx(expected, rel=1e-3)
    assert [entry.values for entry in sweep.entries[2:]] == values[2:]


def test_seeds_and_grid_points_are_populations_of_their_own(tmp_path: Path) -> None:
    sweep = make(tmp_path / "sweep", "data.batch_size=32,64", num_samples=5, seeds=2)
    search = make_search(sweep, parse(sweep.settings.overrides))
    sweep.entries += search.propose(1)
    assert len(sweep.entries) == 20
    assert isinstance(search, pbt.PopulationBased)
    populations = search.populations()
    assert [len(population) for population in populations] == [5] * 4
    assert all(len({(e.seed, e.values["data.batch_size"]) for e in population}) == 1 for population in populations)
    assert all("lr" not in entry.folder and "batch" in entry.folder for entry in sweep.entries)
    assert [search.pause_at(SweepEntry(index=0, folder="", target="", generation=g), 1000) for g in (0, 8, 9)] == [
        100,
        900,
        None,
    ]


def test_a_failed_member_is_left_and_a_population_waits_for_all_others(tmp_path: Path) -> None:
    sweep = make(tmp_path / "sweep", num_samples=4)
    search = make_search(sweep, parse(sweep.settings.overrides))
    sweep.entries += search.propose(1)
    for entry, status in zip(sweep.entries, ("paused", "failed", "paused", "running"), strict=True):
        entry.status = status  # type: ignore[assignment]
    assert search.propose(1) == []
    assert [entry.generation for entry in sweep.entries] == [0] * 4
    sweep.entries[3].status = "paused"  # none has a score: all go on as they are
    assert search.propose(1) == []
    assert [entry.generation for entry in sweep.entries] == [1, 0, 1, 1]
    assert [entry.status for entry in sweep.entries] == ["waiting", "failed", "waiting", "waiting"]


def test_exploring_stays_near_and_inside() -> None:
    generator = np.random.default_rng(0)
    for whole, value in ((Range("log", 1e-5, 1e-1), 1e-3), (Range("uniform", 0.9, 1.0), 0.99), (Range("int", 1, 4), 4)):
        values = [pbt.explored(whole, value, generator) for _ in range(400)]
        assert all(whole.low <= each <= whole.high for each in values)
        near = sum(abs(whole.position(each) - whole.position(value)) < 0.34 for each in values)
        assert 250 < near < 400
    assert Range("log", 1e-5, 1e-1).moved(1e-3, 0.25) == pytest.approx(1e-2)
    assert Range("int", 1, 8).moved(3, -0.1) == 2


def test_a_population_of_one_is_refused(tmp_path: Path) -> None:
    sweep = make(tmp_path / "sweep", num_samples=1)
    with pytest.raises(UserError, match="needs a population"):
        make_search(sweep, parse(sweep.settings.overrides))


def test_a_lineage_is_plain_json(tmp_path: Path) -> None:
    (tmp_path / pbt.LINEAGE).write_text(json.dumps({"generation": 1}) + "\n")
    assert pbt.lineage(tmp_path) == [{"generation": 1}]
    assert pbt.lineage(tmp_path / "none") == []
