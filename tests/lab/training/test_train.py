"""What a run leaves behind in the process that it trained in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from lab.config.overrides import resolve
from lab.training.train import train


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class _Threads(Callback):
    def __init__(self) -> None:
        self.seen: set[int] = set()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen.add(torch.get_num_threads())


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [([], 1), (["trainer.num_threads=3"], 3)],
)
def test_torchs_threads_are_the_runs_own_while_it_lasts(overrides: list[str], expected: int, tmp_path: Path) -> None:
    experiment = resolve(
        "ppo/cartpole", ["trainer.budget=256", "trainer.eval_period=256", "tracking.mode=disabled", *overrides]
    )
    threads = _Threads()
    train(experiment, run_dir=tmp_path / "run", callbacks=[threads])
    assert threads.seen == {expected}
    assert torch.get_num_threads() == 2
