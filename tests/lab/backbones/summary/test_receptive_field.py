"""Receptive fields: published ones, what gradients reach, and where there is none."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones.summary.trace import trace_layers


def fields(net: nn.Module, *shape: int) -> list[Any]:
    """The receptive field of each row."""
    return [row.receptive_field for row in trace_layers(net.eval(), [torch.zeros(1, *shape)])]


def test_stacked_3x3_convolutions_see_3_5_7() -> None:
    net = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(3)))
    assert fields(net, 1, 9, 9) == [(3, 3), (5, 5), (7, 7)]


def test_one_layer_called_thrice_sees_3_5_7() -> None:
    layer = nn.Conv2d(1, 1, 3)
    rows = trace_layers(nn.Sequential(layer, layer, layer), [torch.zeros(1, 1, 9, 9)])
    assert [(row.name, row.receptive_field) for row in rows] == [("0", (3, 3)), ("0 (2)", (5, 5)), ("0 (3)", (7, 7))]


def test_vgg16_sees_212_pixels() -> None:
    """Simonyan and Zisserman 2015, configuration D; Araujo et al. 2019, table 1."""
    widths = [3, *([1] * 13)]
    convs = (nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in itertools.pairwise(widths))
    layers = [each for num in (2, 2, 3, 3, 3) for each in [*itertools.islice(convs, num), nn.MaxPool2d(2)]]
    assert [field for field, _ in fields(nn.Sequential(*layers), 3, 32, 32)[-1:]] == [212]
    pools = [row for row in trace_layers(nn.Sequential(*layers), [torch.zeros(1, 3, 32, 32)]) if "Pool" in row.kind]
    assert [row.receptive_field for row in pools] == [(n, n) for n in (6, 16, 44, 100, 212)]


def test_alexnet_sees_195_pixels() -> None:
    """Araujo et al. 2019, table 1; responses are normalised over channels alone."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 11, 4, 2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(4, 4, 5, padding=2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)),
        nn.MaxPool2d(3, 2),
    )
    expected = [11, 11, 11, 19, 51, 51, 51, 67, 99, 131, 163, 195]
    assert fields(net, 3, 224, 224) == [(n, n) for n in expected]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 beside a shortcut; the stride in the first (He et al. 2016) or in the second."""

    def __init__(self, stride: int, first: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 1, 1, stride if first else 1),
            nn.Conv2d(1, 1, 3, 1 if first else stride, 1),
            nn.Conv2d(1, 1, 1),
        )
        self.shortcut = nn.Conv2d(1, 1, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


@pytest.mark.parametrize(("first", "expected"), [(True, 483), (False, 427)])
def test_resnet50_sees_483_pixels(first: bool, expected: int) -> None:
    """Araujo et al. 2019, table 1; 427 with strides in the 3x3 convolutions, by the same recurrence."""
    blocks = [Bottleneck(2 if i == 0 and j > 0 else 1, first) for j, n in enumerate((3, 4, 6, 3)) for i in range(n)]
    net = nn.Sequential(nn.Conv2d(1, 1, 7, 2, 3), nn.MaxPool2d(3, 2, 1), *blocks, nn.BatchNorm2d(1))
    assert fields(net, 1, 64, 64)[-1] == (expected, expected)


class Branches(nn.Module):
    """Side by side, joined as channels or added."""

    def __init__(self, *branches: nn.Module, add: bool = False) -> None:
        super().__init__()
        self.branches, self.add = nn.ModuleList(branches), add

    def forward(self, x: Tensor) -> Tensor:
        outputs = [branch(x) for branch in self.branches]
        return sum(outputs[1:], outputs[0]) if self.add else torch.cat(outputs, 1)


STACKS = {
    "strides": [nn.Conv2d(1, 1, (5, 3), stride=(2, 1)), nn.Conv2d(1, 1, 3, stride=(1, 3)), nn.Conv2d(1, 1, (2, 3))],
    "dilation": [nn.Conv2d(1, 1, 3, dilation=2), nn.AvgPool2d(2), nn.Conv2d(1, 1, 3, dilation=(1, 3))],
    "pools": [nn.AvgPool2d(3, 2), nn.Conv2d(1, 1, 3), nn.AvgPool2d((2, 3), 1), nn.AdaptiveAvgPool2d((4, 3))],
    "cat": [Branches(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 7, padding=3)), nn.Conv2d(2, 1, 3)],
    "sum": [Branches(nn.Conv2d(1, 1, 5, padding=2), nn.Identity(), add=True), nn.Conv2d(1, 1, 3, stride=2)],
    "up": [nn.Conv2d(1, 1, 3, stride=2), nn.ConvTranspose2d(1, 1, 4, stride=2), nn.Conv2d(1, 1, 3)],
    "up by 3": [nn.ConvTranspose2d(1, 1, 3, stride=3), nn.Conv2d(1, 1, 4), nn.Conv2d(1, 1, 3)],
}


@pytest.mark.parametrize("name", STACKS)
def test_fields_are_what_gradients_reach(name: str) -> None:
    """Of positive weights: the most rows and columns of the input that any place of the map depends on."""
    net = nn.Sequential(*STACKS[name])
    for p in net.parameters():
        nn.init.ones_(p)
    x = torch.ones(1, 1, 24, 24, requires_grad=True)
    out = net(x)[0].sum(0)
    extents = []
    for axis in (0, 1):  # of places along the middle row, or column
        places = out.select(1 - axis, out.shape[1 - axis] // 2).unbind()
        gradients = [torch.autograd.grad(each, x, retain_graph=True)[0][0, 0].sum(1 - axis) for each in places]
        reached = [gradient.nonzero().flatten().tolist() for gradient in gradients]
        extents.append(max(each[-1] - each[0] + 1 for each in reached))
    assert fields(net, 1, 24, 24)[-1] == tuple(extents)


def test_signals_and_volumes_have_fields_too() -> None:
    assert fields(nn.Sequential(nn.Conv1d(1, 1, 3), nn.MaxPool1d(2), nn.Conv1d(1, 1, 3)), 1, 16) == [(3,), (4,), (8,)]
    assert fields(nn.Sequential(nn.Conv3d(1, 1, (1, 3, 5)), nn.AvgPool3d(2)), 1, 8, 8, 8) == [(1, 3, 5), (2, 4, 6)]


class Gate(nn.Module):
    """Channels weighed by what the whole map holds (squeeze and excitation, Hu et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.after = nn.Linear(2, 2), nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.sigmoid(self.linear(x.mean((2, 3))))
        return self.after(x * weights[:, :, None, None])


def test_global_pooling_sees_all_and_so_does_what_it_weighs() -> None:
    pools = [nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d((1, 1)), Gate()]
    seen = [fields(nn.Sequential(nn.Conv2d(1, 2, 3), pool), 1, 8, 8) for pool in pools]
    assert seen == [[(3, 3), "all"], [(3, 3), "all"], [(3, 3), None, "all"]]


class Attention(nn.Module):
    """Each place looks at all others."""

    def __init__(self) -> None:
        super().__init__()
        self.after = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.after(x + mixed.transpose(1, 2).reshape(x.shape))


def test_there_is_none_where_places_no_longer_correspond() -> None:
    conv = nn.Conv2d(1, 1, 3)
    assert fields(nn.Sequential(conv, nn.Flatten(), nn.Linear(36, 3), nn.ReLU()), 1, 8, 8) == [(3, 3), None, None]
    assert fields(nn.Sequential(conv, Attention()), 1, 8, 8) == [(3, 3), None, None]
    assert fields(nn.Sequential(conv, nn.Softmax(2), conv), 1, 8, 8) == [(3, 3), None, None]
    assert fields(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), 4) == [None, None]
