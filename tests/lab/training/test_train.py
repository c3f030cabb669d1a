"""What a run leaves behind in the process that it trained in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from lab.config.overrides import resolve
from lab.errors import UserError
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


class _Tiny(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen.append(float(torch.full((1000,), 1e-40).mul(1).sum()))


@pytest.mark.slow
@pytest.mark.parametrize("flushed_before", [False, True])
def test_tiny_numbers_are_zero_while_a_run_trains(flushed_before: bool, tmp_path: Path) -> None:
    words = ["trainer.budget=256", "trainer.eval_period=256", "tracking.mode=disabled", "trainer.film=false"]
    if not torch.set_flush_denormal(flushed_before):
        pytest.skip("this processor cannot")
    try:
        tiny = _Tiny()
        train(resolve("ppo/cartpole", words), run_dir=tmp_path / "run", callbacks=[tiny])
        assert set(tiny.seen) == {0.0}
        assert (float(torch.full((), 1e-40).mul(1)) == 0) == flushed_before
    finally:
        torch.set_flush_denormal(False)


def test_batch_normalisation_of_one_number_is_a_sentence(tmp_path: Path) -> None:
    words = ["module.backbone.name=mlp", "module.backbone.norm=batch", "data.batch_size=1", "tracking.mode=disabled"]
    with pytest.raises(UserError, match="needs more than one number of each channel"):
        train(resolve("classifier/digits-cnn", words), run_dir=tmp_path / "run")


class _Layout(Callback):
    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.strides = {name: p.stride() for name, p in module.named_parameters() if p.ndim == 4}


@pytest.mark.slow
def test_channels_last_is_how_weights_lie_in_memory_and_changes_no_number(tmp_path: Path) -> None:
    words = ["trainer.budget=640", "module.backbone.dropout=0", "tracking.mode=disabled"]
    ends, layouts = [], []
    for last in ("false", "true"):
        layout = _Layout()
        result = train(
            resolve("classifier/digits-cnn", [*words, f"trainer.channels_last={last}"]),
            run_dir=tmp_path / last,
            callbacks=[layout],
        )
        layouts.append(layout.strides)
        ends.append(result.metrics["eval/cross_entropy"])
    assert layouts[0]["net.features.backbone.net.4.weight"][:2] == (16 * 25, 25)
    assert layouts[1]["net.features.backbone.net.4.weight"][:2] == (16 * 25, 1)
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)
