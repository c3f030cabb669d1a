"""The benchmark of generative recipes: it finds completed runs, and its time is that of the processor."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lab.config.overrides import resolve
from lab.runs.directory import FORMAT, Run


@pytest.fixture
def learning(benchmarks: None) -> ModuleType:
    import generative_learning  # type: ignore[import-not-found]

    return generative_learning  # type: ignore[no-any-return]


def make_run(root: Path, name: str, *overrides: str, status: str = "completed") -> Run:
    run = Run.create(resolve("gan/digits", overrides), root / name)
    experiment = {"recipe": "gan/digits", "seed": run.experiment().seed, "counter": "samples", "samples": 64}
    run.write_result({"format": FORMAT, "status": status, **experiment})
    return run


def test_a_completed_run_of_the_same_experiment_is_found(learning: ModuleType, tmp_path: Path) -> None:
    make_run(tmp_path, "other-seed", "seed=1")
    make_run(tmp_path, "other-rate", "module.optimizer.lr=1e-3")
    make_run(tmp_path, "stopped", status="interrupted")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "result.json").write_text("{")
    wanted = resolve("gan/digits", ["tracking.mode=disabled", "trainer.num_threads=1"])
    assert list(learning.completed(wanted, tmp_path)) == []
    make_run(tmp_path, "same", "tracking.project=other")
    assert [run.path.name for run in learning.completed(wanted, tmp_path)] == ["same"]


def test_curves_are_against_processor_time(learning: ModuleType, tmp_path: Path) -> None:
    run = make_run(tmp_path, "run")
    used = [{"seconds": 10.0, "system/cpu_cores": 0.5}, {"seconds": 30.0, "system/cpu_cores": 1.0}]
    run.system_path.write_text("".join(json.dumps(row) + "\n" for row in used))
    rows: list[dict[str, Any]] = [
        {"samples": 1, "seconds": 5.0, "eval/nll_nats": 3.0},
        {"samples": 2, "seconds": 6.0, "losses/bound_nats": 0.0},
        {"samples": 3, "seconds": 20.0, "eval/nll_nats": 2.0},
    ]
    run.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert learning.core_seconds(run) == [(0.0, 0.0), (10.0, 5.0), (30.0, 25.0)]
    assert learning.curve(run, "eval/nll_nats") == [(1, 2.5, 3.0), (3, 15.0, 2.0)]


def test_recipes_measured_before_stay_in_the_results(
    learning: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import form  # type: ignore[import-not-found]

    def one(recipe: str, seed: int, root: Path, quick: bool) -> dict[str, Any]:
        test = {f"eval/{learning.RECIPES[recipe].metric}": 90.0 - seed, "eval/lenet_modes": 10.0}
        return {"seed": seed, "test": test, "curve": [], "core_seconds": 60.0}

    monkeypatch.setattr(form, "RESULTS", tmp_path)
    monkeypatch.setattr(learning.os, "nice", lambda by: 0)
    monkeypatch.setattr(learning, "draw", lambda *arguments: None)
    monkeypatch.setattr(learning, "one", one)
    for words in (["vae/mnist-static"], ["gan/mnist", "--seeds", "2"], ["vae/mnist-static", "--seeds", "3"]):
        monkeypatch.setattr(sys, "argv", ["generative_learning.py", "--recipes", *words])
        learning.main()
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert found["details"].keys() == {"vae/mnist-static", "gan/mnist"}
    assert found["figures"]["vae_mnist_static_nats"] == 89.0
    assert found["figures"]["gan_mnist_lenet_frechet_ratio"] == 89.5
    assert found["targets"] == {"vae_mnist_static_nats": 88.7, "gan_mnist_lenet_frechet_ratio": 8.0}


def test_figures_of_seeds_and_which_way_is_better(learning: ModuleType) -> None:
    import form  # type: ignore[import-not-found]

    def run(ratio: float, modes: float, seconds: float) -> dict[str, Any]:
        test = {"eval/lenet_frechet_ratio": ratio, "eval/lenet_modes": modes}
        return {"test": test, "core_seconds": seconds}

    figures = learning.figures_of("gan/mnist", [run(2.0, 10.0, 60.0), run(4.0, 9.0, 120.0)])
    assert figures == {
        "gan_mnist_lenet_frechet_ratio": 3.0,
        "gan_mnist_lenet_frechet_ratio_std": 1.0,
        "gan_mnist_lenet_frechet_ratio_worst": 4.0,
        "gan_mnist_modes": 9.0,
        "gan_mnist_core_minutes": 1.5,
    }
    assert learning.figure_name("vae/mnist-static") == "vae_mnist_static_nats"
    assert form.meets("gan_mnist_lenet_frechet_ratio", 7.0, 8.0)
    assert not form.meets("vae_mnist_nats", 87.0, 86.8)
