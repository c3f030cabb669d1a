"""Where a run stands, for whoever shows or records it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Status:
    """A run between two chunks."""

    name: str
    """of the experiment"""
    seed: int
    path: Path
    """the run directory"""
    device: str
    counter: str
    """what is counted: env_steps or samples"""
    count: int
    budget: int
    seconds: float
    """of training so far"""
    metrics: dict[str, float]
    """the latest value of each"""
    monitored: str
    """the metric that decides which checkpoint is best"""


class Observer(Protocol):
    """Sees a run from its start to its end."""

    def start(self, status: Status) -> None:
        """Training begins, or goes on."""

    def update(self, status: Status) -> None:
        """A chunk is done."""

    def work(self, work: str, done: int, total: int) -> None:
        """So much of something else than training is done; called often."""

    def stop(self) -> None:
        """Training has ended, in whatever way; called once or more."""
