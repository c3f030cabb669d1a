"""Which runs are proposed and which are stopped, from runs written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.sweep import summary
from cluster.sweep.search import make_search
from cluster.sweep.search.asha import rungs, survives
from cluster.sweep.search.base import folder_name
from cluster.sweep.space import parse
from cluster.sweep.sweep import Sweep, SweepConfig, SweepEntry
from lab.errors import UserError
from lab.seeding import derive_seed

TARGET = "classifier/digits-cnn"
LR = "module.optimizer.lr"


def sweep_of(path: Path, *overrides: str, **settings: Any) -> Sweep:
    return Sweep.create(path / "sweep", SweepConfig(name="s", targets=(TARGET,), overrides=overrides, **settings))


def write_run(sweep: Sweep, entry: SweepEntry, values: list[float], status: str = "completed") -> None:
    """A run that was evaluated at 100, 200, ... of 1,600 samples."""
    folder = sweep.run_path(entry)
    folder.mkdir(parents=True)
    rows = [{"samples": 100 * (i + 1), "eval/accuracy": value} for i, value in enumerate(values)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {
        "status": status,
        "counter": "samples",
        "samples": rows[-1]["samples"],
        "budget": 1600,
        "monitor": {"metric": "eval/accuracy", "mode": "max"},
        "best": {"metric": "eval/accuracy", "value": max(values)},
    }
    (folder / "result.json").write_text(json.dumps(result))
    entry.status = "completed" if status == "completed" else "running"


def test_grid_is_every_combination_and_seed(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "module.optimizer.lr=1e-3,2e-3", "data.batch_size=32,64", seeds=3)
    entries = make_search(sweep, parse(sweep.settings.overrides)).propose(1)
    assert len(entries) == 12
    assert len({entry.folder for entry in entries}) == 12
    assert {(e.values["module.optimizer.lr"], e.values["data.batch_size"], e.seed) for e in entries} == {
        (lr, batch, seed) for lr in ("1e-3", "2e-3") for batch in ("32", "64") for seed in range(3)
    }


def test_random_draws_repeat_and_seeds_share_a_point(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "module.optimizer.lr=log(1e-5,1e-2)", seeds=2, search="random", num_samples=4)
    space = parse(sweep.settings.overrides)
    entries = make_search(sweep, space).propose(1)
    assert entries == make_search(sweep, space).propose(1)
    drawn = [entry.values["module.optimizer.lr"] for entry in entries]
    assert len(drawn) == 8
    assert len(set(drawn)) == 4
    assert drawn[0::2] == drawn[1::2]


def test_draws_are_seeded_by_the_search_and_its_stage(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, f"{LR}=log(1e-5,1e-2)", search="random", num_samples=4, search_seed=3)
    space = parse(sweep.settings.overrides)
    generator = np.random.default_rng(derive_seed(3, "search", 0))
    expected = [space.sample(generator) for _ in range(4)]
    assert [entry.values for entry in make_search(sweep, space).propose(1)] == expected


def test_a_second_stage_searches_around_the_best(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "module.optimizer.lr=log(1e-5,1e-2)", search="random", num_samples=6, stages=2)
    space = parse(sweep.settings.overrides)
    search = make_search(sweep, space)
    sweep.entries += search.propose(1)
    assert search.propose(1) == []
    for i, entry in enumerate(sweep.entries):
        write_run(sweep, entry, [0.9 if i == 2 else 0.1])
    second = search.propose(1)
    best = float(sweep.entries[2].values["module.optimizer.lr"])
    assert [entry.stage for entry in second] == [1] * 6
    assert [entry.index for entry in second] == list(range(6, 12))
    narrowed = space.ranges["module.optimizer.lr"].narrowed(best, 1 / 3)
    assert all(narrowed.low <= float(entry.values["module.optimizer.lr"]) <= narrowed.high for entry in second)
    for entry in second:
        write_run(sweep, entry, [0.5])
    sweep.entries += second
    assert search.propose(1) == []


def test_survival_is_for_the_best_quarter() -> None:
    assert survives(0.5, [], "max")
    assert [value for value in range(8) if survives(value, [v for v in range(8) if v != value], "max")] == [6, 7]
    assert [value for value in range(8) if survives(value, [v for v in range(8) if v != value], "min")] == [0, 1]
    assert rungs(6400) == [100, 400, 1600]


def test_asha_compares_runs_at_the_same_rung(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "module.optimizer.lr=log(1e-5,1e-2)", search="asha", num_samples=5)
    search = make_search(sweep, parse(sweep.settings.overrides))
    sweep.entries += search.propose(1)
    for entry, values in zip(
        sweep.entries, [[0.2] * 3 + [0.3] + [0.9] * 12, [0.4] * 4, [0.1] * 4, [0.2]], strict=False
    ):
        write_run(sweep, entry, values, "running")
    stopped = [search.judge(e, sweep.result(e) or {}) for e in sweep.entries[:3]]
    # at 400 samples: 0.3 (not the 0.9 that came later), 0.4, 0.1: the second leads
    assert stopped == [True, False, True]
    assert not search.judge(sweep.entries[2], sweep.result(sweep.entries[2]) or {})  # judged once a rung


def test_edges_of_ranges_are_named(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "module.optimizer.lr=log(1e-5,1e-2)", search="random", num_samples=3)
    for i, (lr, score) in enumerate([("1e-3", 0.5), ("9.9e-3", 0.9), ("1e-4", 0.3)]):
        sweep.entries.append(SweepEntry(index=i, folder=f"r{i}", target=TARGET, values={"module.optimizer.lr": lr}))
        write_run(sweep, sweep.entries[-1], [score])
    ranked = summary.seed_groups(sweep, sweep.entries)
    assert [group.mean for group in ranked] == [0.9, 0.5, 0.3]
    (warning,) = summary.edge_warnings(ranked, parse(sweep.settings.overrides).ranges)
    assert "upper edge" in warning
    assert "module.optimizer.lr=9.9e-3" in warning


def test_spread_is_over_seeds(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, seeds=2)
    for seed, score in enumerate([0.8, 0.6]):
        sweep.entries.append(SweepEntry(index=seed, folder=f"r{seed}", target=TARGET, seed=seed))
        write_run(sweep, sweep.entries[-1], [score])
    (group,) = summary.seed_groups(sweep, sweep.entries)
    assert group.mean == pytest.approx(0.7)
    assert group.spread == pytest.approx(0.1414, abs=1e-3)


@pytest.mark.parametrize(
    ("overrides", "settings"),
    [((), {"search": "random"}), (("a=log(1,2)",), {"search": "grid"}), (("a=1,2",), {"stages": 2})],
)
def test_searches_that_make_no_sense_are_refused(
    tmp_path: Path, overrides: tuple[str, ...], settings: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="range"):
        make_search(sweep_of(tmp_path, *overrides, **settings), parse(overrides))


def test_folder_names_are_short_and_safe() -> None:
    name = folder_name(3, "pkg.module:my_recipe", {"module.optimizer.lr": "1e-3", "module.x": "[64, 'a b']"}, 1)
    assert name == "003-my-recipe-lr1e-3-x-64-a-b-s1"


def test_named_seeds_are_trained_and_averaged(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "seed=3,17", f"{LR}=1e-3,2e-3")
    space = parse(sweep.settings.overrides)
    sweep.entries = make_search(sweep, space).propose(1)
    assert [(entry.values[LR], entry.seed, entry.point) for entry in sweep.entries] == [
        ("1e-3", 3, 0),
        ("1e-3", 17, 0),
        ("2e-3", 3, 2),
        ("2e-3", 17, 2),
    ]
    assert [sweep.experiment(entry, space.fixed).seed for entry in sweep.entries] == [3, 17, 3, 17]
    assert [entry.folder.rpartition("-")[2] for entry in sweep.entries] == ["s3", "s17", "s3", "s17"]
    for entry, score in zip(sweep.entries, [0.1, 0.3, 0.5, 0.9], strict=True):
        write_run(sweep, entry, [score])
    assert [group.mean for group in summary.seed_groups(sweep, sweep.entries)] == pytest.approx([0.7, 0.2])


@pytest.mark.parametrize(
    ("settings", "overrides", "sentence"),
    [
        ({"seeds": 3}, ("seed=3",), "seed=3 and --seeds 3 both say which seeds to train; leave one out"),
        ({"seeds": 2}, ("seed=3,4",), "seed=3,4 and --seeds 2 both"),
        ({"targets": (TARGET, TARGET)}, (), f"{TARGET!r} is named twice; --seeds 2 trains it with two seeds."),
    ],
)
def test_two_ways_to_say_one_thing_are_refused(
    tmp_path: Path, settings: dict[str, Any], overrides: tuple[str, ...], sentence: str
) -> None:
    config = SweepConfig(name="s", **{"targets": (TARGET,), "overrides": overrides} | settings)
    with pytest.raises(UserError) as error:
        make_search(Sweep(tmp_path, config, []), parse(overrides))
    assert sentence in str(error.value)


def test_no_point_is_drawn_twice(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "data.batch_size=int(30,33)", search="random", num_samples=8, stages=2)
    search = make_search(sweep, parse(sweep.settings.overrides))
    said: list[str] = []
    search.say = said.append
    sweep.entries = search.propose(1)
    assert sorted(entry.values["data.batch_size"] for entry in sweep.entries) == ["30", "31", "32", "33"]
    assert said == [f"{TARGET}: its ranges hold no more than 4 values that were not tried yet"]
    for entry in sweep.entries:
        write_run(sweep, entry, [0.5])
    assert search.propose(1) == []


def test_points_that_come_to_one_value_are_no_seeds_of_one_another(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    for index, score in enumerate([0.8, 0.6]):
        sweep.entries.append(
            SweepEntry(index=index, folder=f"r{index}", target=TARGET, values={LR: "1e-3"}, point=index)
        )
        write_run(sweep, sweep.entries[-1], [score])
    groups = summary.seed_groups(sweep, sweep.entries)
    assert [(group.mean, group.spread, group.num_runs) for group in groups] == [(0.8, None, "1"), (0.6, None, "1")]


def test_a_failed_run_does_not_count(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, seeds=3)
    for seed in range(3):
        sweep.entries.append(SweepEntry(index=seed, folder=f"r{seed}", target=TARGET, seed=seed))
    for entry in sweep.entries[:2]:
        write_run(sweep, entry, [0.5])
    sweep.entries[2].status = "failed"
    (group,) = summary.seed_groups(sweep, sweep.entries)
    assert (group.mean, group.num_runs) == (0.5, "2 of 3")
    assert "2 of 3" in [str(cell) for cell in summary.table([group]).columns[1].cells]
