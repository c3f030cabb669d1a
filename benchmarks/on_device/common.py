"""What the measurements of benchmarks/gpu.py share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lab.config.overrides import resolve
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.train import train

QUIET = ("tracking.mode=disabled", "trainer.film=false", "trainer.eval_period=1000000000")


class Skipped(Exception):
    """A measurement cannot be made here."""


class Setting(NamedTuple):
    """Where to measure, and about how long."""

    device: str
    seconds: float

    @property
    def quick(self) -> bool:
        """Whether seconds have to do."""
        return self.seconds <= 3

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def trained(recipe: str, setting: Setting, folder: Path, *overrides: str) -> Run:
    """A finished training of a recipe on the device."""
    words = [*QUIET, f"trainer.device={setting.device}", *overrides]
    return train(resolve(recipe, words), run_dir=folder).run


def weights(run: Run, which: str = "last") -> dict[str, torch.Tensor]:
    """A run's weights, on the CPU."""
    state = checkpoint.load(run.checkpoint(which))["state_dict"]
    return {name: value.cpu() for name, value in state.items()}


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The norm of the difference of all weights by the norm of the first."""
    pairs = [(one[name].double(), other[name].double()) for name in one if one[name].is_floating_point()]
    difference = sum(float((a - b).square().sum()) for a, b in pairs)
    return (difference / sum(float(a.square().sum()) for a, _ in pairs)) ** 0.5


def rate(step: Callable[[], int], setting: Setting, seconds: float) -> float:
    """How much a second `step` does, by what it returns."""
    setting.synchronize()
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        done += step()
    setting.synchronize()
    return done / (time.perf_counter() - began)


def in_turn(steps: dict[str, Callable[[], int]], setting: Setting, repeats: int = 5) -> dict[str, Any]:
    """Rates of several ways to do the same, measured in turn, and the ratios of the first to the others (medians)."""
    repeats = 1 if setting.quick else repeats
    for step in steps.values():
        for _ in range(1 if setting.quick else 2):
            step()
    seconds = setting.seconds / (2 * repeats * len(steps))
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats):
        for name in list(steps)[:: 1 if repeat % 2 == 0 else -1]:
            rates[name].append(rate(steps[name], setting, seconds))
    first, *others = steps
    figures: dict[str, Any] = {f"{name}_per_second": statistics.median(values) for name, values in rates.items()}
    for other in others:
        ratios = [a / b for a, b in zip(rates[first], rates[other], strict=True)]
        figures[f"{first}_vs_{other}_ratio"] = statistics.median(ratios)
    return figures | {"rates": rates}
