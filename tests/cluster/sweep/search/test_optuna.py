"""Optuna proposes: better than chance, the same again after a driver's death, and with choices among ranges."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cluster.sweep.search import make_search
from cluster.sweep.search.base import Search
from cluster.sweep.space import parse
from cluster.sweep.sweep import Sweep, SweepConfig, SweepEntry
from lab.errors import UserError
from lab.seeding import derive_seed

LR, LAYERS, BATCH = "module.optimizer.lr", "module.backbone.blocks", "data.batch_size"
TARGET = "classifier/digits-cnn"


def sweep_of(path: Path, *overrides: str, **settings: Any) -> Sweep:
    defaults: dict[str, Any] = {"name": "s", "targets": (TARGET,), "search": "optuna"}
    return Sweep.create(path, SweepConfig(**(defaults | {"overrides": overrides} | settings)))


def finish(sweep: Sweep, entry: SweepEntry, loss: float | None) -> None:
    folder = sweep.run_path(entry)
    folder.mkdir(parents=True)
    result = {
        "status": "completed",
        "monitor": {"metric": "eval/loss", "mode": "min"},
        "best": {"metric": "eval/loss", "value": loss},
    }
    (folder / "result.json").write_text(json.dumps(result if loss is not None else result | {"best": None}))
    entry.status = "completed" if loss is not None else "failed"


def loss_of(entry: SweepEntry) -> float:
    """Least at lr 1e-3, three blocks, batches of 64."""
    lr, layers = float(entry.values[LR]), int(entry.values[LAYERS])
    return abs(math.log10(lr) + 3) + 0.5 * abs(layers - 3) + (entry.values[BATCH] != "64")


def search_all(path: Path, name: str, seed: int) -> list[SweepEntry]:
    overrides = (f"{LR}=log(1e-6,1)", f"{LAYERS}=int(1,8)", f"{BATCH}=32,64,128")
    sweep = sweep_of(path, *overrides, search=name, num_samples=30 if name == "optuna" else 10, search_seed=seed)
    search = make_search(sweep, parse(overrides))
    while new := search.propose(2):
        sweep.entries += new
        for entry in new:
            finish(sweep, entry, loss_of(entry))
    return sweep.entries


def test_it_finds_better_points_than_chance(tmp_path: Path) -> None:
    ratios = []
    for seed in range(3):
        asked = search_all(tmp_path / f"optuna{seed}", "optuna", seed)
        drawn = search_all(tmp_path / f"random{seed}", "random", seed)
        assert len(asked) == len(drawn) == 30
        assert {entry.values[BATCH] for entry in asked} == {"32", "64", "128"}
        ratios.append(sum(map(loss_of, asked[15:])) / 15 / (sum(map(loss_of, drawn)) / 30))
    assert sum(ratios) / 3 < 0.8
    assert max(ratios) < 1


def test_a_new_driver_asks_for_the_same(tmp_path: Path) -> None:
    overrides = (f"{LR}=log(1.23456e-6,1)",)
    sweep = sweep_of(tmp_path / "sweep", *overrides, num_samples=12, seeds=2)
    search = make_search(sweep, parse(overrides))
    for i in range(11):
        new = search.propose(1)
        assert [entry.seed for entry in new] == [0, 1]
        assert new[0].values == new[1].values
        sweep.entries += new
        for entry in new:
            if i != 10:  # the eleventh is in progress
                finish(sweep, entry, None if i == 3 else abs(math.log10(float(entry.values[LR])) + 3))
    sweep.save()
    expected = search.propose(8)
    assert len(expected) == 2  # the twelfth is the last
    again = Sweep.open(sweep.path)
    assert make_search(again, parse(overrides)).propose(8) == expected
    again.entries += expected
    assert make_search(again, parse(overrides)).propose(8) == []


def test_recipes_take_turns_and_a_grid_alone_is_enough(tmp_path: Path) -> None:
    targets = (TARGET, "classifier/digits-lstm")
    sweep = sweep_of(tmp_path / "sweep", f"{BATCH}=32,64", num_samples=2, targets=targets)
    new = make_search(sweep, parse(sweep.settings.overrides)).propose(8)
    assert [entry.target for entry in new] == [*targets, *targets]
    assert len({entry.folder for entry in new}) == 4
    assert {entry.values[BATCH] for entry in new} <= {"32", "64"}


def test_the_sampler_is_seeded_by_recipe_and_number_of_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    seeds: list[int] = []
    sampler = optuna.samplers.TPESampler

    def recorded(seed: int, **options: Any) -> Any:
        seeds.append(seed)
        return sampler(seed=seed, **options)

    monkeypatch.setattr(optuna.samplers, "TPESampler", recorded)
    targets = (TARGET, "classifier/digits-lstm")
    sweep = sweep_of(tmp_path / "sweep", f"{LR}=log(1e-6,1)", num_samples=2, targets=targets, search_seed=5)
    new = make_search(sweep, parse(sweep.settings.overrides)).propose(8)
    assert seeds == [derive_seed(5, "optuna", target, i) for i in range(2) for target in targets]
    assert len({entry.values[LR] for entry in new}) == 4  # two recipes ask for different points


def test_what_it_cannot_do_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of(tmp_path / "none")
    with pytest.raises(UserError, match="--search optuna needs a range"):
        make_search(sweep, parse(()))
    staged = sweep_of(tmp_path / "staged", f"{LR}=log(1e-6,1)", stages=2)
    with pytest.raises(UserError, match="--stages goes with random and asha"):
        make_search(staged, parse(staged.settings.overrides))
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UserError, match="pip install optuna"):
        make_search(sweep_of(tmp_path / "absent", f"{LR}=log(1e-6,1)"), parse((f"{LR}=log(1e-6,1)",)))
    assert isinstance(make_search(sweep_of(tmp_path / "r", search="grid"), parse(())), Search)
