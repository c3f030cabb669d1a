"""Schedules against closed forms and torch's schedulers, and what is refused of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lab.config.overrides import resolve
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.engine.schedules import Plateau, Stagnation
from lab.errors import UserError

NUM_STEPS = 40
SCORES = [0.1, 0.5, 0.5, 0.4, 0.6, 0.6, 0.6, math.nan, 0.3, 0.7, 0.2, 0.2, 0.2, 0.2, 0.2]


def factors(**fields: Any) -> list[float]:
    schedule = ScheduleConfig(**fields)
    return [schedule.factor(step / NUM_STEPS) for step in range(NUM_STEPS)]


def of_torch(kind: Any, lr: float = 1.0, **options: Any) -> list[float]:
    """The rates that a scheduler of torch gives."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=lr)
    scheduler, rates = kind(optimizer, **options), []
    for _ in range(NUM_STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_step_is_torchs() -> None:
    expected = of_torch(torch.optim.lr_scheduler.MultiStepLR, milestones=[10, 30], gamma=0.2)
    assert factors(name="step", milestones=(0.25, 0.75), gamma=0.2) == pytest.approx(expected)


def test_one_cycle_is_torchs() -> None:
    expected = of_torch(
        torch.optim.lr_scheduler.OneCycleLR,
        max_lr=1.0,
        total_steps=NUM_STEPS + 1,
        pct_start=11 / (NUM_STEPS + 1),  # its peak is at step 10
        div_factor=25,
        final_div_factor=100,
        cycle_momentum=False,
    )
    assert factors(name="one_cycle", peak=0.25, final=0.0004) == pytest.approx(expected)


def test_inverse_is_one_over_time() -> None:
    assert factors(name="inverse", decay=3.0) == pytest.approx([1 / (1 + 3 * i / NUM_STEPS) for i in range(NUM_STEPS)])
    warm = ScheduleConfig(name="inverse", decay=3.0, warmup=0.5)
    assert [warm.factor(p) for p in (0.25, 0.5, 1.0)] == pytest.approx([0.5, 1.0, 0.25])


@pytest.mark.parametrize("mode", ["max", "min"])
def test_plateau_is_torchs(mode: Any) -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode,
        factor=0.5,
        patience=1,  # that is of bad ones which it lets pass
        threshold=0.0,
        min_lr=0.1,
        eps=0.0,
    )
    plateau = Plateau(gamma=0.5, patience=2, final=0.1)
    for score in SCORES:
        value = score if mode == "max" else -score
        scheduler.step(value)
        plateau.update(value, mode)
        assert plateau.factor == optimizer.param_groups[0]["lr"]
    assert plateau.factor == 0.1


@pytest.mark.parametrize("stop", range(len(SCORES)))
def test_a_plateau_goes_on_from_a_saved_state(stop: int) -> None:
    whole, first, second = (Plateau(gamma=0.5, patience=2, final=0.01) for _ in range(3))
    for i, score in enumerate(SCORES):
        if i == stop:
            second.load_state_dict(first.state_dict())
        whole.update(score, "max")
        (first if i < stop else second).update(score, "max")
    assert second.state_dict() == whole.state_dict()


def test_only_a_better_finite_value_ends_stagnation() -> None:
    stagnation = Stagnation()
    counts = []
    for value in (math.nan, 1.0, 1.0, math.inf, 0.5, 2.0):
        stagnation = stagnation.after(value, "max")
        counts.append(stagnation.num_evaluations)
    assert counts == [1, 0, 1, 2, 3, 0]
    assert stagnation.best == 2.0


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("schedule={name: linear, gamma: 0.5}", "gamma=0.5 is not used by 'linear', only by step, plateau"),
        ("schedule={name: one_cycle, warmup: 0.1}", "warmup=0.1 is not used by 'one_cycle', only by constant, linear"),
        ("schedule={name: step, milestones: [0.5, 1.5]}", r"milestones\.1=1\.5 is not valid"),
        ("schedule={name: stairs}", "unknown value for module.optimizer.schedule.name: 'stairs'"),
    ],
)
def test_what_a_schedule_does_not_use_is_refused(override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        resolve("classifier/digits-cnn", [f"module.optimizer.{override}"])


@pytest.mark.parametrize(
    ("recipe", "field"),
    [
        ("ppo/cartpole", "entropy_schedule"),
        ("ppo/cartpole", "clip_schedule"),
        ("q-learning/frozen-lake", "alpha_schedule"),
    ],
)
def test_plateau_is_for_learning_rates_only(recipe: str, field: str) -> None:
    with pytest.raises(UserError, match=f"module.{field}: a plateau schedule is for a learning rate only"):
        resolve(recipe, [f"module.{field}.name=plateau"])


def test_another_name_keeps_the_fields_that_it_uses() -> None:
    config = resolve(
        "ppo/cartpole",
        [
            "module.optimizer.schedule.warmup=0.1",
            "module.optimizer.schedule.final=0.2",
            "module.optimizer.schedule.name=exponential",
            "module.optimizer.name=newton",
        ],
    ).module.optimizer  # type: ignore[attr-defined]
    assert config == OptimizerConfig(
        name="newton", lr=1.0, schedule=ScheduleConfig(name="exponential", warmup=0.1, final=0.2)
    )


def test_cyclic_is_torchs_warm_restarts() -> None:
    expected = of_torch(torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, T_0=10, eta_min=0.1)
    assert factors(name="cyclic", cycles=4, final=0.1) == pytest.approx(expected)
    assert ScheduleConfig(name="cyclic", cycles=3).factor(1.0) == 0
