"""Gated PixelCNN: what its first weights do to a signal. (1, C, H, W) images, float64."""

import itertools

import torch

from generative.autoregressive.backbones.gated import GATE_SLOPE, gate
from lab.backbones.registry import BACKBONES


def test_a_small_signal_keeps_its_scale_down_the_vertical_stack():
    torch.manual_seed(0)
    net = BACKBONES["gated_pixelcnn"].factory((1, 28, 28), channels=16, layers=8, kernel=5).double()
    image = torch.rand(1, 1, 28, 28, dtype=torch.float64)
    v = torch.cat([image, image + 0.05 * torch.randn_like(image)])
    h, spread = v, []
    with torch.no_grad():
        for layer in net.layers:
            spread.append(float((v[1] - v[0]).std()))
            v, h, _ = layer(v, h, None)
    assert all(0.3 < after / before < 1.5 for before, after in itertools.pairwise(spread)), spread
    assert 0.05 < spread[-1] / spread[0] < 2


def test_the_gate_lets_through_its_slope():
    small = torch.tensor([[1e-4, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(gate(small), GATE_SLOPE * small[:, :1], rtol=1e-6, atol=0)
    a, b = torch.randn(2, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(gate(torch.cat([a, b], 1)), torch.tanh(a / 2) * torch.sigmoid(b))
