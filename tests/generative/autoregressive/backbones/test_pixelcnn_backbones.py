"""Sliced kernels against masked ones, causality by gradients, receptive fields, streams. (C, H, W) images, float64."""

import pytest
import torch
from torch.nn import functional as F

from generative.autoregressive.backbones.causal import Causal
from generative.autoregressive.backbones.pixelcnn import AddBottleneck, CausalConv2d, PixelCNNBlock
from lab.backbones import BackboneConfig, build_backbone
from tests.generative.autoregressive.backbones.causal import CAUSAL, NO_BLIND_SPOT, causal_net


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_sliced_kernel_equals_masked_kernel(kernel, center):
    layer = CausalConv2d(3, 4, kernel, center=center).double()
    full = torch.zeros(4, 3, kernel, kernel, dtype=torch.float64)
    mask = torch.zeros(kernel, kernel, dtype=torch.bool)
    mask[: kernel // 2] = True
    mask[kernel // 2, : kernel // 2 + center] = True
    reach = kernel // 2
    full[:, :, :reach] = layer.above.detach()
    full[:, :, reach, : reach + center] = layer.left.detach()[:, :, 0]
    assert not full[:, :, ~mask].any()
    assert full[:, :, mask].all()
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.conv2d(x, full, layer.bias, padding=reach))


@pytest.mark.parametrize("kernel", [1, 4])
def test_kernel_sizes_without_a_centre_are_refused(kernel):
    with pytest.raises(ValueError, match=f"kernel_size={kernel} "):
        CausalConv2d(1, 1, kernel, center=True)


def test_block_in_place_equals_the_block_and_its_gradients():
    block = PixelCNNBlock(3, 5, 0).double()
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = block(x, None)

    def in_place(x, *parameters):
        return AddBottleneck.apply(x.clone(), *parameters)

    causal = block.causal
    parameters = (block.reduce.weight, block.reduce.bias, causal.weight(), causal.bias)
    parameters = [p.detach().requires_grad_() for p in (*parameters, block.expand.weight, block.expand.bias)]
    torch.testing.assert_close(in_place(x, *parameters), expected)
    assert torch.autograd.gradcheck(in_place, (x.requires_grad_(), *parameters))


@pytest.mark.parametrize("name", CAUSAL)
def test_no_pixel_at_or_after_its_own_position_is_seen(name):
    net = causal_net(name, (2, 6, 6))
    visible = dependence(net, (2, 6, 6))
    for position in range(36):
        assert not visible[position, position:].any(), f"pixel {position} sees {visible[position].nonzero().flatten()}"


@pytest.mark.parametrize("name", NO_BLIND_SPOT)
def test_every_pixel_before_is_seen(name):
    visible = dependence(causal_net(name, (1, 6, 6)), (1, 6, 6))
    expected = torch.ones(36, 36).tril(-1).bool()
    assert torch.equal(visible, expected), f"blind at {(expected & ~visible).nonzero().tolist()}"


def test_plain_pixelcnn_has_the_blind_spot_of_its_paper():
    net = causal_net("pixelcnn", (1, 6, 6), blocks=8, first_kernel=3)
    visible = dependence(net, (1, 6, 6))
    assert visible[3 * 6 + 1, 2 * 6 + 2]  # above, right by one
    assert not visible[3 * 6 + 1, 2 * 6 + 3]  # above, right by two: outside of every 3x3 mask's reach


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("context", [0, 3])
def test_stream_equals_forward(name, context):
    check_stream(causal_net(name, (2, 8, 4), context=context), context)


def test_stream_equals_forward_through_three_resolutions():
    check_stream(causal_net("pixelcnn_pp", (2, 8, 4), stages=3), context=0)


def check_stream(net, context):
    x = torch.rand(3, 2, 8, 4, dtype=torch.float64)
    vector = torch.randn(3, context, dtype=torch.float64) if context else None
    with torch.no_grad():
        features = net(x) if vector is None else net(x, vector)
        stream = net.stream(3, 4, vector)
        padded = F.pad(x, (1, 0, 1, 0)).permute(0, 2, 3, 1)
        for row in range(8):
            stream.begin_row(padded[:, row, 1:])
            for column in range(4):
                torch.testing.assert_close(stream.step(column, padded[:, row + 1, column]), features[:, :, row, column])


@pytest.mark.parametrize("name", CAUSAL)
def test_context_reaches_every_pixel(name):
    net = causal_net(name, (1, 4, 4), context=3)
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    a, b = (net(x, torch.eye(3, dtype=torch.float64)[i : i + 1]) for i in range(2))
    assert ((a - b).abs().amax(1) > 0).all()


@pytest.mark.parametrize("name", CAUSAL)
def test_backbone_is_built_by_its_name(name):
    backbone = build_backbone(BackboneConfig(name), (1, 8, 8))
    assert isinstance(backbone.net, Causal)
    assert backbone.output_shape[1:] == (8, 8)


def dependence(net, shape):
    """(pixels, pixels): whether the features of the first depend on the second, by gradients at random inputs."""
    x = torch.rand(1, *shape, dtype=torch.float64, requires_grad=True)
    features = net(x)
    weights = torch.randn(features.shape[1], dtype=torch.float64)
    outputs = torch.einsum("bfhw,f->hw", features, weights).flatten()
    rows = [torch.autograd.grad(out, x, retain_graph=True)[0].abs().amax((0, 1)).flatten() > 0 for out in outputs]
    return torch.stack(rows)
