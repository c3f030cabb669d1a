"""Averages of weights against their sums, and statistics of batch norms against torch's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from lab.config.overrides import resolve
from lab.data.resident import Batch
from lab.engine.averages import Average, renew_statistics
from lab.engine.loss import Loss
from lab.engine.optimizers import OptimizerConfig
from lab.engine.updater import Updater
from lab.errors import UserError
from lab.experiment import AverageConfig

NUM = 12


def walk(net: nn.Module, average: Average, progress: list[float]) -> Tensor:
    """Weights (N, P) that an average has taken in."""
    rows = []
    for p in progress:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(p)
        rows.append(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]))
    return torch.stack(rows)


def averaged(net: nn.Module, average: Average) -> Tensor:
    with average.applied():
        return torch.cat([parameter.detach().flatten() for parameter in net.parameters()]).clone()


def test_the_exponential_average_is_its_sum() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    average = Average(AverageConfig(name="ema", decay=0.8), net, list(dict(net.named_parameters())))
    rows = walk(net, average, [i / NUM for i in range(NUM)])
    shares = torch.tensor([0.2 * 0.8 ** (NUM - 1 - k) for k in range(NUM)]) / (1 - 0.8**NUM)
    assert float(shares.sum()) == pytest.approx(1)
    torch.testing.assert_close(averaged(net, average), (shares[:, None] * rows).sum(0))
    torch.testing.assert_close(torch.cat([p.detach().flatten() for p in net.parameters()]), rows[-1])


def test_the_average_of_the_last_part_is_its_mean() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    average = Average(AverageConfig(name="swa", start=0.5, period=2), net, list(dict(net.named_parameters())))
    rows = walk(net, average, [i / NUM for i in range(NUM)])
    torch.testing.assert_close(averaged(net, average), rows[[6, 8, 10]].mean(0))


def test_an_average_follows_its_module_to_where_that_moves() -> None:
    torch.manual_seed(0)
    net = Rows()
    average = Average(AverageConfig(name="ema", decay=0.5), net, list(dict(net.named_parameters())))
    net.double()
    for _ in range(3):
        net(torch.randn(8, 4, dtype=torch.float64))
        average.update(0.0)
        with torch.no_grad():
            net.net[0].weight.add_(1)  # type: ignore[union-attr, operator]
    own = {name: value.clone() for name, value in net.state_dict().items()}
    with average.applied():
        held = net.state_dict()
        for name in ("net.0.weight", "net.1.running_mean"):
            assert held[name].dtype == torch.float64
            assert not torch.equal(held[name], own[name])
        expected = own["net.0.weight"] - (3 * 0.125 + 2 * 0.25 + 0.5) / 0.875
        torch.testing.assert_close(held["net.0.weight"], expected)
    assert all(torch.equal(value, own[name]) for name, value in net.state_dict().items())


def test_before_there_is_an_average_weights_are_as_they_are() -> None:
    net = nn.Linear(3, 2)
    average = Average(AverageConfig(name="swa"), net, list(dict(net.named_parameters())))
    rows = walk(net, average, [0.0, 0.7])
    torch.testing.assert_close(averaged(net, average), rows[-1])


def test_the_mean_is_of_the_last_part_of_the_budget_that_counts() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    average = Average(AverageConfig(name="swa", start=0.5), net, list(dict(net.named_parameters())))
    walk(net, average, [0.6, 0.8, 1.0])
    rows = walk(net, average, [0.4, 0.45, 0.5, 0.55])  # the budget is larger now
    torch.testing.assert_close(averaged(net, average), rows[2:].mean(0))


@pytest.mark.parametrize("changed", ["kind", "parameters"])
def test_an_average_of_another_kind_or_of_other_parameters_begins_anew(changed: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    first = Average(AverageConfig(name="ema"), net, ["0.weight"])
    walk(net, first, [0.0, 0.1])
    kind, names = ("swa", ["0.weight"]) if changed == "kind" else ("ema", ["1.weight"])  # of the same shape
    other = Average(AverageConfig(name=kind), net, names)
    other.load_state_dict(first.state_dict())
    own = torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
    assert torch.equal(averaged(net, other), own)
    assert other.num_averaged == 0


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        Batch(torch.randn(16, 4, generator=generator), torch.randint(3, (16,), generator=generator)) for _ in range(NUM)
    ]


def updater_of(net: Rows, engine: str, average: AverageConfig | None, optimizer: str = "adam") -> Updater:
    def loss(batch: Batch) -> Loss:
        value = F.cross_entropy(net(batch.x), batch.y)
        return Loss(value, {"loss": value.detach()})

    updater = Updater(net, loss, OptimizerConfig(name=optimizer, lr=0.05), engine)
    updater.set_average(average)
    return updater


@pytest.mark.parametrize("engine", ["eager", "traced"])
def test_each_engine_averages_what_it_updates_and_learns_as_without(engine: str) -> None:
    torch.manual_seed(0)
    net = Rows()
    plain, moving = copy.deepcopy(net), copy.deepcopy(net)
    theirs = AveragedModel(moving, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    ours = updater_of(net, engine, AverageConfig(name="ema", decay=0.5))
    others = [updater_of(each, engine, None) for each in (plain, moving)]
    for i, batch in enumerate(batches()):
        for updater in (ours, *others):
            updater.step(batch)
        theirs.update_parameters(moving)
        if i % 5 == 0:  # looking at the average leaves no trace
            assert ours.average is not None
            with ours.average.applied():
                net(batch.x)
    for name, value in net.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(value, plain.state_dict()[name]), name
    # torch begins with w_1 and does not correct: a_n of torch = d^(n-1) w_1 + ..., so both are apart by d^n
    assert ours.average is not None
    with ours.average.applied():
        for name, value in theirs.module.state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-2, atol=1e-3)


def test_a_second_order_optimizer_averages_too() -> None:
    torch.manual_seed(0)
    net = Rows()
    updater = updater_of(net, "eager", AverageConfig(name="ema"), "lbfgs")
    updater.step(batches()[0])
    assert updater.average is not None
    assert updater.average.num_averaged == 1


def test_an_average_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    config = AverageConfig(name="ema", decay=0.9)
    nets = [Rows()]
    nets.append(copy.deepcopy(nets[0]))
    one, other = (updater_of(net, "eager", config) for net in nets)
    for batch in batches():
        one.step(batch)
    for batch in batches()[:5]:
        other.step(batch)
    again = copy.deepcopy(nets[1])
    third = updater_of(again, "eager", config)
    third.load_state_dict(copy.deepcopy(other.state_dict()))
    for batch in batches()[5:]:
        third.step(batch)
    assert one.average is not None
    assert third.average is not None
    with one.average.applied(), third.average.applied():
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in nets[0].state_dict().items())


def test_statistics_made_anew_are_torchs() -> None:
    torch.manual_seed(0)
    net = Rows()
    expected = copy.deepcopy(net)
    update_bn([batch.x for batch in batches()], expected)
    layer: Any = net.net[1]
    count = layer.num_batches_tracked.clone()
    net.eval()
    renew_statistics([layer], (net(batch.x) for batch in batches()))
    torch.testing.assert_close(layer.running_mean, expected.net[1].running_mean)  # type: ignore[union-attr]
    torch.testing.assert_close(layer.running_var, expected.net[1].running_var)  # type: ignore[union-attr]
    assert (layer.momentum, layer.training, int(layer.num_batches_tracked)) == (0.1, False, int(count))
    before = layer.running_mean.clone()
    renew_statistics([layer], iter(()))
    assert torch.equal(layer.running_mean, before)


def test_fields_of_the_other_average_are_refused() -> None:
    assert resolve("classifier/digits-cnn", ["trainer.average=ema"]).trainer.average == AverageConfig(name="ema")
    chosen = resolve("classifier/digits-cnn", ["trainer.average.name=swa", "trainer.average.start=0.5"])
    assert chosen.trainer.average == AverageConfig(name="swa", start=0.5)
    for words, says in {
        "trainer.average={name: ema, start: 0.5}": "start=0.5 is not used by 'ema'",
        "trainer.average={name: swa, decay: 0.5}": "decay=0.5 is not used by 'swa'",
        "trainer.average=sma": "unknown value for trainer.average.name: 'sma'",
        "trainer.average={name: ema, decay: 1}": "trainer.average.decay=1",
    }.items():
        with pytest.raises(UserError, match=says):
            resolve("classifier/digits-cnn", [words])
