"""A small network with every sort of parameter, its updater, and minibatches for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.data.resident import Batch
from lab.engine.loss import Loss
from lab.engine.optimizers import OptimizerConfig
from lab.engine.updater import Updater


class Net(nn.Module):
    """Convolution, norm layer, matrix: (B, 1, 4, 4) -> (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.LayerNorm([3, 2, 2])
        self.hidden, self.head = nn.Linear(12, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.tanh(self.norm(self.conv(x)).flatten(1))
        outputs: Tensor = self.head(torch.tanh(self.hidden(features)))
        return outputs


def squared_error(net: nn.Module, batch: Batch) -> Tensor:
    return (net(batch.x) - batch.y).square().mean()


def small_updater(config: OptimizerConfig, engine: str = "eager", net: nn.Module | None = None) -> Updater:
    """Always with the same weights."""
    if net is None:
        torch.manual_seed(0)
        net = Net()

    def loss(batch: Batch) -> Loss:
        value = squared_error(net, batch)
        return Loss(value, {"loss": value.detach()})

    return Updater(net, loss, config, engine)


def minibatches(num: int, dtype: torch.dtype = torch.float32) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(
            torch.randn(6, 1, 4, 4, generator=generator, dtype=dtype),
            torch.randn(6, 2, generator=generator, dtype=dtype),
        )
        for _ in range(num)
    ]


def run(updater: Updater, batches: list[Batch], first: int = 0, total: int = 20) -> list[float]:
    """Updates with their progress through `total` of them; returns the losses."""
    losses = []
    for i, batch in enumerate(batches, first):
        updater.set_progress(i / total)
        losses.append(float(updater.step(batch)[0]["loss"]))
    return losses


def saved_and_restored(updater: Updater, path: Path, config: OptimizerConfig | None = None) -> Updater:
    """Another updater with weights and state of this one, out of a file."""
    torch.save({"weights": updater.module.state_dict(), "updater": updater.state_dict()}, path)
    content: dict[str, Any] = torch.load(path, weights_only=True)
    other = small_updater(config or updater.config)
    other.module.load_state_dict(content["weights"])
    other.load_state_dict(content["updater"])
    return other


def assert_same_weights(one: Updater, other: Updater, tolerance: float = 0.0) -> None:
    expected = dict(other.module.named_parameters())
    for name, value in one.module.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance, msg=name)
