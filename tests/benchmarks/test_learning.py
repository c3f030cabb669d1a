"""The learning benchmarks: runs are kept while the recipe is the same, and figures are those of the seeds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lab.config import serialization
from lab.config.overrides import resolve


@pytest.fixture
def learning(benchmarks: None) -> ModuleType:
    import learning  # type: ignore[import-not-found]

    return learning  # type: ignore[no-any-return]


def measured(best: float = 2.0, last: float = 1.0, **others: Any) -> dict[str, Any]:
    return {
        "best": best,
        "last": last,
        "late": 1.5,
        "seconds": 3.0,
        "env_steps": 10,
        "curve": [(10, 3.0, 1.0)],
        **others,
    }


def test_a_run_is_kept_until_its_recipe_changes(
    learning: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained: list[Any] = []

    def run_json(python: str, script: str, yaml: Path, folder: Path, episodes: int, threads: int) -> dict[str, Any]:
        experiment = serialization.load(yaml)
        trained.append((experiment.name, experiment.seed, experiment.trainer.budget, folder, episodes))
        return measured()

    monkeypatch.setattr(learning, "run_json", run_json)
    budget = resolve("dqn/cartpole").trainer.budget
    for quick in (False, False, True):
        assert learning._one("dqn/cartpole", 3, tmp_path, quick) == json.loads(json.dumps(measured()))
    assert [run[:3] for run in trained] == [("dqn/cartpole", 3, budget), ("dqn/cartpole", 3, budget // 10)]
    assert trained[0][3] != trained[1][3]
    assert [run[4] for run in trained] == [100, 20]

    same = resolve
    monkeypatch.setattr(learning, "resolve", lambda recipe, more: same(recipe, [*more, "module.gamma=0.9"]))
    learning._one("dqn/cartpole", 3, tmp_path, False)
    assert len(trained) == 3


def test_recipes_measured_before_stay_in_the_results(
    learning: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import form  # type: ignore[import-not-found]

    monkeypatch.setattr(form, "RESULTS", tmp_path)
    monkeypatch.setattr(learning.os, "nice", lambda by: 0)
    monkeypatch.setattr(learning, "_draw", lambda *arguments: None)
    monkeypatch.setattr(learning, "_one", lambda recipe, seed, root, quick: measured(last=float(seed)))
    targets = {"dqn/cartpole": 495.0, "dqn/acrobot": -80.0}

    def run(*words: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["some_learning.py", *words])
        learning.learning_benchmark("some_learning", "Some.", targets)
        (path,) = tmp_path.glob("some_learning-*.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    run("--recipes", "dqn/acrobot", "--seeds", "2")
    both = run("--recipes", "dqn/cartpole", "--seeds", "3")
    assert both["details"].keys() == targets.keys()
    assert both["figures"]["dqn_acrobot_seeds"] == 2
    assert both["figures"]["dqn_cartpole_last"] == 1.0
    assert both["targets"]["dqn_acrobot_best"] == -80.0
    again = run("--recipes", "dqn/acrobot", "--seeds", "1")
    assert again["figures"]["dqn_acrobot_last"] == 0.0
    assert again["figures"]["dqn_cartpole_seeds"] == 3


def test_figures_are_means_spreads_and_the_worst_seed(learning: ModuleType) -> None:
    figures = learning._figures([measured(last=1.0, seconds=9.0), measured(last=4.0), measured(best=5.0, last=1.0)])
    assert figures == {
        "best": 3.0,
        "best_std": pytest.approx(2**0.5),
        "last": 2.0,
        "last_std": pytest.approx(2**0.5),
        "last_min": 1.0,
        "late": 1.5,
        "training_seconds": 3.0,
        "seeds": 3,
    }
