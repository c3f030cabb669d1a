"""The traced engine computes what plain autograd computes, for every kind of layer that updates use."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.engine.loss import Loss
from lab.engine.optimizers import OptimizerConfig
from lab.engine.tracing import record
from lab.engine.updater import Updater


def dense(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 32), activation(), nn.LayerNorm(32), nn.Linear(32, 32), activation(), nn.Linear(32, 3)
    )


NETWORKS = {
    "relu": lambda: dense(nn.ReLU),
    "tanh": lambda: dense(nn.Tanh),
    "elu": lambda: dense(nn.ELU),
    "conv": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)
    ),
    "batch_norm": lambda: nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)),
}


class Rows(NamedTuple):
    x: Tensor
    action: Tensor
    target: Tensor
    unused: Tensor | None = None


def losses(net: nn.Module, kind: str):
    def loss(batch: Rows) -> Loss:
        x, action, target, _ = batch
        out = net(x)
        if kind == "huber":
            value = F.smooth_l1_loss(out.gather(1, action[:, None]).squeeze(1), target)
        elif kind == "cross_entropy":
            value = F.cross_entropy(out, action)
        else:
            log_prob = F.log_softmax(out, -1).gather(1, action[:, None]).squeeze(1)
            ratio = (log_prob - target).exp()
            value = -torch.minimum(ratio * target, ratio.clamp(0.8, 1.2) * target).mean()
        metrics = {"loss": value.detach(), "spread": out.detach().std()}
        return Loss(value, metrics, {"outputs": out.detach()})

    return loss


@pytest.mark.parametrize("kind", ["huber", "cross_entropy", "clipped"])
@pytest.mark.parametrize("network", NETWORKS)
def test_traced_updates_equal_eager_updates(network: str, kind: str) -> None:
    updaters = []
    for engine in ("eager", "traced"):
        torch.manual_seed(0)
        net = NETWORKS[network]()
        updater = Updater(net, losses(net, kind), OptimizerConfig(lr=1e-2, max_grad_norm=0.5), engine)
        updaters.append(updater)
    generator = torch.Generator().manual_seed(1)
    for step in range(20):
        num = 16 if step % 5 else 24  # a second batch shape is traced beside the first
        x = torch.randn(num, 6, generator=generator)
        action = torch.randint(3, (num,), generator=generator)
        target = torch.randn(num, generator=generator)
        eager, traced = (updater.step(Rows(x, action, target)) for updater in updaters)
        assert eager[1]["outputs"].shape == (num, 3)
        torch.testing.assert_close(eager, traced, rtol=1e-3, atol=1e-4)
    for eager, traced in zip(
        updaters[0].module.state_dict().values(), updaters[1].module.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(eager, traced, rtol=1e-3, atol=1e-4)


def test_traced_updates_follow_parameters_that_are_loaded_afterwards() -> None:
    torch.manual_seed(0)
    net = dense(nn.Tanh)
    updater = Updater(net, losses(net, "huber"), OptimizerConfig(), "traced")
    batch = Rows(torch.randn(8, 6), torch.randint(3, (8,)), torch.randn(8))
    saved = {key: value.clone() for key, value in net.state_dict().items()}
    first = updater.step(batch)[0]["loss"].clone()
    updater.step(batch)
    net.load_state_dict(saved)
    torch.testing.assert_close(updater.step(batch)[0]["loss"], first)


def test_recorded_functions_follow_the_parameters_and_keep_their_inputs() -> None:
    torch.manual_seed(0)
    net = dense(nn.Tanh)

    def function(_, x: Tensor) -> list[Tensor]:
        return [net(x), torch.tanh(x), torch.neg(torch.neg(x)) * torch.ones_like(x)]

    x = torch.randn(8, 6)
    before = x.clone()
    replay = record(net, [name for name, _ in net.named_parameters()], function, [x])
    for _ in range(2):
        for got, expected in zip(replay([x]), function(None, x), strict=True):
            torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1)
    assert torch.equal(x, before)


def test_parameters_of_ones_are_no_constants() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale.expand(x.shape)

    net = Scaled()
    updater = Updater(net, losses(net, "cross_entropy"), OptimizerConfig(name="sgd", lr=1.0), "traced")
    batch = Rows(torch.randn(8, 3), torch.randint(3, (8,)), torch.randn(8))
    first = updater.step(batch)[0]["loss"]
    assert updater.step(batch)[0]["loss"] < first
