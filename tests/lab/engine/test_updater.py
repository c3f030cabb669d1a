"""Updates: what each of them computes its gradient with."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lab.config.overrides import resolve
from lab.engine.loss import Loss
from lab.engine.optimizers import OptimizerConfig
from lab.engine.updater import Updater
from lab.errors import UserError


class Inputs(NamedTuple):
    x: Tensor


def test_updates_under_one_autocast_use_the_newest_weights() -> None:
    def updater() -> Updater:
        torch.manual_seed(0)
        net = nn.Linear(4, 1)

        def loss(batch: Inputs) -> Loss:
            value = net(batch.x).float().square().mean()
            return Loss(value, {"loss": value.detach()})

        return Updater(net, loss, OptimizerConfig(lr=0.1))

    batch, apart, together = Inputs(torch.ones(8, 4)), updater(), updater()
    expected = []
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16):
            expected.append(apart.step(batch)[0]["loss"])
    with torch.autocast("cpu", torch.bfloat16):
        losses = [together.step(batch)[0]["loss"] for _ in range(5)]
    assert torch.equal(torch.stack(losses), torch.stack(expected))
    assert losses[1] != losses[0]


def test_an_exponential_schedule_says_where_it_ends() -> None:
    schedule = resolve("dqn/cartpole", ["module.optimizer.schedule={name: exponential, final: 0.01}"])
    factor = schedule.module.optimizer.schedule.factor  # type: ignore[attr-defined]
    assert [factor(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.1, 0.01])
    with pytest.raises(UserError, match="an exponential schedule needs a `final` above 0"):
        resolve("dqn/cartpole", ["module.optimizer.schedule.name=exponential"])


class Detour(nn.Module):
    """A linear layer, and a scale that its updater's module holds in a list while the loss takes it from here."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.scale = nn.Linear(4, 1), nn.Parameter(torch.ones(1))


@pytest.mark.parametrize("noisy", [False, True])
def test_a_loss_that_cannot_be_recorded_is_refused_before_anything_is_lost(noisy: bool) -> None:
    torch.manual_seed(0)
    model = Detour()

    def loss(batch: Inputs) -> Loss:
        noise = torch.randn(8, 1) if noisy else 0.0
        return Loss((model.scale * model.net(batch.x) + noise).square().mean(), {})

    held = nn.ModuleList([model.net, nn.ParameterList([model.scale])])
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(
        UserError, match=r"the recorded gradient of 1\.0 is not autograd's.* use trainer.engine=eager\."
    ):
        Updater(held, loss, OptimizerConfig(lr=0.1), "traced").step(Inputs(torch.ones(8, 4)))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    Updater(held, loss, OptimizerConfig(lr=0.1), "eager").step(Inputs(torch.ones(8, 4)))
    assert not torch.equal(before[1], model.scale)


def test_inputs_that_carry_a_gradient_are_not_recorded() -> None:
    generator, critic = nn.Linear(2, 4), nn.Linear(4, 1)
    updater = Updater(generator, lambda batch: Loss(critic(batch.x).mean(), {}), OptimizerConfig(), "traced")
    with pytest.raises(UserError, match="takes inputs that carry a gradient"):
        updater.step(Inputs(generator(torch.ones(8, 2))))
