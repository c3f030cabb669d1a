"""What a run takes of a cluster, with the processes that it starts by itself."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.session.session import Resources
from cluster.sweep.demand import slots_of
from lab.config.overrides import resolve
from lab.errors import UserError

CPU, QUARTER, FLEET = Resources(1, 0), Resources(1, 0.25), "data.collector.kind=remote"


@pytest.mark.parametrize(
    ("recipe", "words", "worker", "expected"),
    [
        ("classifier/digits-cnn", [], CPU, 1),
        ("classifier/digits-cnn", ["trainer.num_workers=4", "trainer.num_threads=2"], CPU, 8),
        ("classifier/digits-cnn", ["trainer.num_workers=2"], Resources(2, 0), 1),
        ("classifier/digits-cnn", ["trainer.num_workers=2"], QUARTER, 8),
        ("classifier/digits-cnn", ["trainer.num_workers=8", "trainer.min_workers=3", "trainer.num_threads=2"], CPU, 8),
        ("pg/cartpole", [FLEET, "data.collector.num=4"], CPU, 5),
        ("pg/cartpole", [FLEET, "data.collector.num=4"], Resources(0.5, 0), 9),
        ("pg/cartpole", [FLEET, "data.collector.num=4", "data.collector.num_cpus=0.25"], CPU, 2),
        ("pg/cartpole", [FLEET, "data.collector.num_cpus=0"], QUARTER, 1),
        ("rllib/ppo-cartpole", ["data.num_env_runners=2"], CPU, 3),
    ],
)
def test_slots(recipe: str, words: list[str], worker: Resources, expected: int) -> None:
    unused: Any = None
    slots = 9 if worker != CPU else 8
    assert slots_of(resolve(recipe, words), worker, slots, unused) == expected


def test_a_cluster_that_is_too_small_is_told_in_a_sentence() -> None:
    fleet: Any = "2 CPU"
    with pytest.raises(
        UserError, match=r"pg/cartpole needs 3 CPU in all; the cluster has 2 CPU \(data\.collector\.num_"
    ):
        slots_of(resolve("pg/cartpole", [FLEET]), CPU, 2, fleet)
