"""Networks have the parameters and multiply-adds of the papers, or of the reference code, with their 1,000-way head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lab.backbones import BackboneConfig, build_backbone


def size_of(name: str, shape: tuple[int, ...], classes: int, **options: Any) -> tuple[float, float]:
    """Parameters in millions and multiply-adds in thousands of millions, of a network that is not really there."""
    with torch.device("meta"):
        backbone = build_backbone(BackboneConfig(name, **options), shape).eval()
        net = nn.Sequential(backbone, nn.Linear(backbone.num_features, classes))
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            net(torch.zeros(1, *shape))
    return sum(p.numel() for p in net.parameters()) / 1e6, counter.get_total_flops() / 2e9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "parameters", "multiply_adds"),
    [
        ("alexnet", {}, 61.10, 0.714),
        ("vgg11", {"batch_norm": False}, 132.86, 7.609),
        ("vgg13", {"batch_norm": False}, 133.05, 11.308),
        ("vgg16", {"batch_norm": False}, 138.36, 15.470),
        ("vgg19", {"batch_norm": False}, 143.67, 19.632),
        ("googlenet", {}, 6.998, 1.58),  # 6,998,552 in Caffe's bvlc_googlenet
        ("resnet18", {}, 11.690, 1.814),
        ("resnet34", {}, 21.798, 3.664),
        ("resnet50", {}, 25.557, 4.089),
        ("resnet101", {}, 44.549, 7.801),
        ("resnet152", {}, 60.193, 11.514),
        ("resnext50", {}, 25.029, 4.230),
        ("densenet121", {}, 7.979, 2.834),
        ("densenet169", {}, 14.149, 3.360),
        ("squeezenet", {}, 1.248, 0.733),  # 0.819 where the head reads each place before the mean
    ],
)
def test_at_224_pixels(name: str, options: dict[str, Any], parameters: float, multiply_adds: float) -> None:
    assert size_of(name, (3, 224, 224), 1000, **options) == pytest.approx((parameters, multiply_adds), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("resnet_cifar", {"depth": 20}, 0.27),
        ("resnet_cifar", {"depth": 32}, 0.466),
        ("resnet_cifar", {"depth": 56}, 0.855),
        ("resnet_cifar", {"depth": 110}, 1.73),
        ("resnet18", {}, 11.174),
        ("resnet18", {"order": "pre"}, 11.171),
        ("wide_resnet", {"depth": 28, "width": 10}, 36.479),
        ("wide_resnet", {"depth": 28, "width": 2}, 1.468),
        ("wide_resnet", {"depth": 40, "width": 4}, 8.949),
        ("densenet_bc", {"depth": 100, "growth": 12}, 0.769),
        ("densenet_bc", {"depth": 190, "growth": 40}, 25.6),
        ("fractalnet", {}, 33.725),  # 33,724,618 in imgclsmob's fractalnet_cifar10
        ("vgg16", {"hidden": (512,)}, 14.98),
    ],
)
def test_at_32_pixels(name: str, options: dict[str, Any], parameters: float) -> None:
    assert size_of(name, (3, 32, 32), 10, **options)[0] == pytest.approx(parameters, rel=0.01)
