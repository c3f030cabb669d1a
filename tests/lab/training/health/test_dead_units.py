"""Dead units: counted right for vectors, sequences and pictures; a dead layer is told of, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lab.config.overrides import resolve
from lab.supervised.supervised import Supervised
from lab.training.health.dead_units import DeadUnits
from lab.training.train import train


def net_of(biases: list[float]) -> nn.Sequential:
    """Units that give relu(x + bias)."""
    linear = nn.Linear(1, len(biases))
    nn.init.ones_(linear.weight)
    linear.bias.data = torch.tensor(biases)
    return nn.Sequential(linear, nn.ReLU())


@pytest.mark.parametrize("shape", [(8, 1), (4, 2, 1)])
def test_a_unit_is_dead_when_no_input_lets_it_fire(shape: tuple[int, ...]) -> None:
    net, dead = net_of([0.0, -1.5, -5.0, -9.0]), DeadUnits()
    with dead.watching(net):
        net(torch.ones(shape))
        assert dead.metrics() == {"eval/dead_units": 0.75}
        net(2 * torch.ones(shape))
    net(10 * torch.ones(shape))  # not watched
    assert dead.metrics() == {"eval/dead_units": 0.5}
    assert dead.warning() is None


def test_a_channel_lives_when_one_pixel_fires() -> None:
    net, dead = nn.Sequential(nn.ReLU()), DeadUnits()
    pictures = -torch.ones(3, 5, 4, 4)
    pictures[2, 1, 3, 0] = 1.0
    with dead.watching(net):
        net(pictures)
    assert dead.metrics() == {"eval/dead_units": pytest.approx(0.8)}


def test_channels_of_sequences_are_told_from_features_by_what_is_before_them() -> None:
    net, dead = nn.Sequential(nn.Conv1d(1, 8, 1), nn.ReLU()), DeadUnits()
    nn.init.ones_(net[0].weight)  # type: ignore[arg-type]
    net[0].bias.data = torch.tensor([-9.0] + [0.0] * 7)  # type: ignore[union-attr]
    with dead.watching(net):
        net(torch.ones(2, 1, 5))
    assert dead.metrics() == {"eval/dead_units": pytest.approx(1 / 8)}


def test_one_rectifier_may_stand_in_several_places() -> None:
    rectify = nn.ReLU()
    net, dead = nn.Sequential(nn.Linear(1, 4), rectify, nn.Linear(4, 6), rectify, nn.Linear(6, 1)), DeadUnits()
    with dead.watching(net):
        net(torch.ones(3, 1))
        rectify(torch.tensor(1.0))  # no units
    assert 0 <= dead.metrics()["eval/dead_units"] <= 1


def test_networks_without_rectified_units_have_none() -> None:
    net, dead = nn.Sequential(nn.Linear(2, 2), nn.Tanh()), DeadUnits()
    with dead.watching(net):
        net(torch.ones(1, 2))
    assert dead.metrics() == {}
    assert dead.warning() is None


@pytest.mark.slow
def test_a_run_whose_layer_dies_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Supervised.evaluate

    def evaluate(self: Any, *given: Any, **options: Any) -> dict[str, float]:
        with torch.no_grad():
            last = [layer for layer in self.net.modules() if isinstance(layer, nn.Linear)][-2]
            last.bias.fill_(-1e6)
        return inner(self, *given, **options)

    monkeypatch.setattr(Supervised, "evaluate", evaluate)
    words = ["trainer.budget=2560", "trainer.eval_period=640", "trainer.device=cpu", "tracking.mode=disabled"]
    run = train(resolve("classifier/digits-cnn", words), run_dir=tmp_path / "run").run
    assert (run.path / "log.txt").read_text().count("are 0 for every input of the evaluation") == 1
    assert all(row["eval/dead_units"] > 0.5 for row in run.metrics() if "eval/accuracy" in row)
