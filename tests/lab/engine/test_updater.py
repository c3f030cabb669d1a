"""Updates: what each of them computes its gradient with."""

import torch
from torch import Tensor, nn

from lab.engine.loss import Metrics
from lab.engine.optimizers import OptimizerConfig
from lab.engine.updater import Updater


def test_updates_under_one_autocast_use_the_newest_weights() -> None:
    def updater() -> Updater:
        torch.manual_seed(0)
        net = nn.Linear(4, 1)

        def loss(x: Tensor) -> tuple[Tensor, Metrics]:
            value = net(x).float().square().mean()
            return value, {"loss": value.detach()}

        return Updater(net, loss, OptimizerConfig(lr=0.1))

    x, apart, together = torch.ones(8, 4), updater(), updater()
    expected = []
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16):
            expected.append(apart.step(x)["loss"])
    with torch.autocast("cpu", torch.bfloat16):
        losses = [together.step(x)["loss"] for _ in range(5)]
    assert torch.equal(torch.stack(losses), torch.stack(expected))
    assert losses[1] != losses[0]
