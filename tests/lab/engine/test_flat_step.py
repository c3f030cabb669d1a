"""Optimizer steps in a few calls equal torch's, and go on from a saved state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lab.data.resident import Batch
from lab.engine.loss import Loss
from lab.engine.optimizers import OptimizerConfig
from lab.engine.updater import Updater

OPTIMIZERS = {
    "adam": OptimizerConfig(lr=0.02),
    "adam_clipped": OptimizerConfig(lr=0.02, betas=(0.8, 0.9), eps=1e-5, max_grad_norm=0.1),
    "adamw": OptimizerConfig(name="adamw", lr=0.02, weight_decay=0.1),
    "rmsprop": OptimizerConfig(name="rmsprop", lr=0.01, alpha=0.9, eps=1e-5, max_grad_norm=0.5),
    "rmsprop_momentum": OptimizerConfig(name="rmsprop", lr=0.01, momentum=0.5),
    "sgd": OptimizerConfig(name="sgd", lr=0.1, momentum=0.9, max_grad_norm=1.0),
}


def regression(config: OptimizerConfig, engine: str = "eager") -> tuple[nn.Module, Updater]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))

    def loss(batch: Batch) -> Loss:
        value = (net(batch.x) - batch.y).square().mean()
        return Loss(value, {"loss": value.detach()})

    return net, Updater(net, loss, config, engine)


def minibatches(num: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(6, 3, generator=generator), torch.randn(6, 2, generator=generator)) for _ in range(num)]


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("engine", ["eager", "traced"])
def test_updates_are_those_of_torch(name: str, engine: str) -> None:
    config = OPTIMIZERS[name]
    net, updater = regression(config, engine)
    plain = regression(config)[0]
    optimizer = config.build(plain.parameters())
    for i, (x, y) in enumerate(minibatches(12)):
        rate = updater.set_progress(0.0) * (1 if i < 6 else 0.5)  # the rate may change on the way
        for group in (*updater.optimizer.param_groups, *optimizer.param_groups):
            group["lr"] = rate
        metrics, _ = updater.step(Batch(x, y))
        optimizer.zero_grad()
        (plain(x) - y).square().mean().backward()
        if config.max_grad_norm is not None:
            norm = nn.utils.clip_grad_norm_(plain.parameters(), config.max_grad_norm)
            torch.testing.assert_close(metrics["grad_norm"], norm)
        optimizer.step()
    for got, expected in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("stop", [0, 1, 4])
def test_updates_go_on_bit_for_bit_from_a_saved_state(name: str, stop: int, tmp_path: Path) -> None:
    batches = minibatches(8)
    whole, updater = regression(OPTIMIZERS[name])
    halves, first = regression(OPTIMIZERS[name])
    for x, y in batches:
        updater.step(Batch(x, y))
    for x, y in batches[:stop]:
        first.step(Batch(x, y))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    _, second = regression(OPTIMIZERS[name])
    second.module.load_state_dict(halves.state_dict())
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for x, y in batches[stop:]:
        second.step(Batch(x, y))
    assert second.num_updates == len(batches)
    for got, expected in zip(second.module.parameters(), whole.parameters(), strict=True):
        assert torch.equal(got, expected)


def convolution(config: OptimizerConfig, layout: torch.memory_format, engine: str) -> Updater:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 2, 1), nn.Flatten()).to(memory_format=layout)

    def loss(batch: Batch) -> Loss:
        value = (net(batch.x) - batch.y).square().mean()
        return Loss(value, {})

    return Updater(net, loss, config, engine)


def pictures(num: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    shapes = (5, 3, 4, 4), (5, 8)
    return [Batch(*(torch.randn(shape, generator=generator) for shape in shapes)) for _ in range(num)]


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("engine", ["eager", "traced"])
def test_weights_may_lie_in_memory_with_channels_last_also_from_one_checkpoint_to_the_next(
    name: str, engine: str, tmp_path: Path
) -> None:
    plain = convolution(OPTIMIZERS[name], torch.contiguous_format, engine)
    for batch in pictures(8):
        plain.step(batch)
    other = convolution(OPTIMIZERS[name], torch.channels_last, engine)
    for stop, layout in ((3, torch.contiguous_format), (8, torch.channels_last)):
        for batch in pictures(8)[other.num_updates : stop]:
            other.step(batch)
        torch.save({"net": other.module.state_dict(), "updater": other.state_dict()}, tmp_path / "state.pt")
        content = torch.load(tmp_path / "state.pt", weights_only=True)
        other = convolution(OPTIMIZERS[name], layout, engine)
        other.module.load_state_dict(content["net"])
        other.load_state_dict(content["updater"])
    for got, expected in zip(other.module.parameters(), plain.module.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
