"""The simulation of collection against closed forms."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def simulation() -> Any:
    folder = Path(__file__).parents[2] / "benchmarks"
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("scale_simulation", folder / "scale_simulation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale_simulation"] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(folder))
    return module


def test_cores_divide_what_needs_them(simulation: Any) -> None:
    costs = simulation.Costs(step=1e-3, wait=0.0, rollout=0.0, request=0.0, per_byte=0.0)
    for collectors, cores in ((1, 1), (4, 1), (4, 2), (2, 4)):
        found = simulation.collect_seconds(simulation.Fleet(1, collectors, cores, 100, 0.0), costs)["taken"]
        assert found == pytest.approx(100 * 1e-3 * max(1, collectors / cores))


def test_waiting_collectors_overlap(simulation: Any) -> None:
    costs = simulation.Costs(step=1e-4, wait=5e-3, rollout=0.0, request=0.0, per_byte=0.0)
    for collectors in (1, 32):  # 32 steps of 0.1 ms fit into the 5 ms that one waits
        found = simulation.collect_seconds(simulation.Fleet(1, collectors, 1, 50, 0.0), costs)["taken"]
        assert found == pytest.approx(50 * 5.1e-3, rel=0.02)
    found = simulation.collect_seconds(simulation.Fleet(1, 500, 1, 50, 0.0), costs)["taken"]  # now the core is short
    assert found == pytest.approx(50 * 500 * 1e-4, rel=0.02)


def test_card_and_learner_take_turns_with_rollouts(simulation: Any) -> None:
    costs = simulation.Costs(step=1e-3, wait=0.0, rollout=0.0, request=2e-3, per_byte=1e-9)
    found = simulation.collect_seconds(simulation.Fleet(10, 1, 1, 10, 1e6, network=1e9), costs)
    assert found["stepped"] == pytest.approx(0.010)
    assert found["sent"] == pytest.approx(0.010 + 10 * 1e-3)  # ten rollouts of 1 MB at 1 GB/s
    assert found["taken"] == pytest.approx(0.010 + 1e-3 + 10 * 3e-3)  # the learner is slower than the card
