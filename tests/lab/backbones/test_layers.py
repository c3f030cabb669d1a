"""Layers that several networks share, against what their papers say of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lab.backbones import BackboneConfig, build_backbone
from lab.backbones.fractalnet import Fractal
from lab.backbones.initialization import initialize
from lab.backbones.layers import DropConnect, DropPath, Maxout
from lab.errors import UserError


def test_maxout_takes_the_largest_of_its_pieces() -> None:
    x = torch.tensor([[1.0, 5.0, -3.0, -2.0]])
    assert Maxout(2)(x).tolist() == [[5.0, -2.0]]
    net = build_backbone(BackboneConfig("mlp", hidden=(3, 2), activation="maxout"), (4,))
    assert [tuple(p.shape) for p in net.parameters()] == [(6, 4), (6,), (4, 3), (4,)]


def test_what_is_lost_at_random_is_right_on_average_and_nothing_is_lost_in_evaluation() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 50)
    layer = DropConnect(50, 3, 0.5)
    mean = torch.stack([layer(x) for _ in range(4000)]).mean(0)
    assert torch.allclose(mean, nn.functional.linear(x, layer.weight, layer.bias), atol=0.1)
    assert torch.equal(layer.eval()(x), nn.functional.linear(x, layer.weight, layer.bias))
    path = DropPath(0.25)
    lost = path(torch.ones(4000, 2, 3)).flatten(1)
    assert sorted(lost.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert torch.equal(lost.amin(1), lost.amax(1)), "a sample's branch is lost as a whole"
    assert float(lost.mean()) == pytest.approx(1, abs=0.05)
    assert torch.equal(path.eval()(x), x)


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_a_fractal_is_what_its_recursion_says(columns: int) -> None:
    """f_1(x) = conv(x), f_(K+1)(x) = mean of f_K(f_K(x)) and conv(x), where joins of one place are one mean."""
    torch.manual_seed(0)
    net = Fractal(2, 3, columns, 0.0, 0.0).eval()
    x = torch.rand(1, 2, 5, 5)

    def fractal(order: int, first: int, inputs: torch.Tensor) -> list[torch.Tensor]:
        """The outputs, not yet joined, of a fractal of columns 0 to `order`, whose first step is `first`."""
        last = first + 2**order - 1
        unit = net.columns[order][str(last)]
        if order == 0:
            return [unit(inputs)]
        half = torch.stack(fractal(order - 1, first, inputs)).mean(0)
        return [*fractal(order - 1, first + 2 ** (order - 1), half), unit(inputs)]

    torch.testing.assert_close(net(x), torch.stack(fractal(columns - 1, 0, x)).mean(0))


def test_drop_path_keeps_one_input_of_a_join_and_at_times_one_column() -> None:
    torch.manual_seed(0)
    net = Fractal(1, 1, 3, 0.0, 0.9)
    for unit in net.modules():
        if isinstance(unit, nn.BatchNorm2d):
            unit.eval()
    x = torch.rand(1, 1, 2, 2)
    single = [net.columns[2]["3"](x), net.columns[1]["3"](net.columns[1]["1"](x))]
    outputs = [net(x) for _ in range(60)]
    assert all(bool(output.isfinite().all()) for output in outputs)
    for expected in single:
        assert any(torch.allclose(output, expected) for output in outputs)
    assert len({round(float(output.sum()), 4) for output in outputs}) > 2


@pytest.mark.parametrize(
    ("init", "spread"), [("small", 0.01), ("inverse_sqrt", 0.05), ("he", 0.0707), ("xavier", 0.0535), ("sparse", None)]
)
def test_weights_are_drawn_as_asked(init: Any, spread: float | None) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(400, 300)
    initialize(layer, init)
    assert not layer.bias.any()
    if spread is not None:
        assert float(layer.weight.std()) == pytest.approx(spread, rel=0.02)
        return
    assert (layer.weight != 0).sum(1).tolist() == [10] * 300
    assert float(layer.weight[layer.weight != 0].std()) == pytest.approx(1, rel=0.05)


def test_orthogonal_zero_biases_and_default() -> None:
    torch.manual_seed(0)
    net = build_backbone(BackboneConfig("gru", hidden=6, init="orthogonal", bias=0.5), (4,))
    weight = net.net.core.weight_hh_l0.view(18, 6)
    torch.testing.assert_close(weight.T @ weight, torch.eye(6))
    assert set(net.net.core.bias_ih_l0.tolist()) == {0.5}
    conv = build_backbone(BackboneConfig("lenet", init="zero"), (1, 8, 8))
    assert not any(p.any() for p in conv.parameters())
    torch.manual_seed(1)
    plain = build_backbone(BackboneConfig("mlp"), (4,))
    torch.manual_seed(1)
    named = build_backbone(BackboneConfig("mlp", init="default"), (4,))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), named.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "shape", "options", "part"),
    [
        ("resnet50", (3, 5, 5), {}, "an image of at least 8x8 pixels"),
        ("alexnet", (3, 40, 40), {"form": "large"}, "an image of at least 63x63 pixels (form=large)"),
        ("vgg16", (3,), {}, "it needs an image"),
        ("wide_resnet", (3, 32, 32), {"depth": 27}, "depth=27 is none of 10, 16, 22, 28"),
        ("resnet_cifar", (3, 32, 32), {"depth": 21}, "depth=21 is none of 8, 14, 20"),
        ("densenet_bc", (3, 32, 32), {"depth": 41}, "depth=41 is none of 10, 16, 22"),
        ("lstm", (8,), {"encoder": {"name": "gru"}}, "its encoder 'gru' reads sequences, too"),
        ("transformer", (4,), {}, "it needs a sequence (steps, numbers of a step)"),
    ],
)
def test_what_a_network_cannot_read_is_said(
    name: str, shape: tuple[int, ...], options: dict[str, Any], part: str
) -> None:
    with pytest.raises(UserError) as error:
        build_backbone(BackboneConfig(name, **options), shape)
    assert part in str(error.value)


def test_probabilities_and_empty_layers_are_taken_at_their_word() -> None:
    for name in ("alexnet", "mlp", "googlenet"):
        with pytest.raises(ValueError, match="dropout=1"):
            BackboneConfig(name, dropout=1)
    bare = build_backbone(BackboneConfig("alexnet", hidden=()), (3, 32, 32))
    assert bare.output_shape == (256 * 16,)


@pytest.mark.parametrize("bias", [float("nan"), float("inf")])
def test_a_bias_is_a_finite_number(bias: float) -> None:
    with pytest.raises(ValueError, match="is not valid for backbone 'mlp': input should be a finite number"):
        BackboneConfig("mlp", bias=bias)
