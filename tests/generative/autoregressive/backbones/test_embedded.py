"""Symbols as learned vectors: what the levels are called must not matter, and a stream must be the network."""

import pytest
import torch
from torch.nn import functional as F

from lab.backbones import BackboneConfig, build_backbone
from lab.backbones.registry import BACKBONES
from lab.errors import UserError


def small_net(**options):
    torch.manual_seed(0)
    options = {"levels": 5, "embedding": 3, "channels": 4, "layers": 4, "first_kernel": 5} | options
    return BACKBONES["symbol_pixelcnn"].factory((2, 6, 4), **options).double().eval()


def symbols(*shape):
    return torch.randint(5, shape) / 4.0


def test_features_see_the_symbols_before_a_pixel_and_no_other():
    net, x = small_net(), symbols(1, 2, 6, 4).double()
    features = net(x)
    for position in range(24):
        row, column = divmod(position, 4)
        changed = x.clone()
        changed[:, :, row, column] = (changed[:, :, row, column] + 0.25) % 1.25
        moved = (net(changed) - features).abs().amax((0, 1)).flatten() > 1e-12
        assert not moved[: position + 1].any()
        assert moved[position + 1 :].all()


@pytest.mark.parametrize("context", [0, 3])
def test_stream_equals_forward(context):
    net, x = small_net(context=context), symbols(3, 2, 6, 4).double()
    vector = torch.randn(3, context, dtype=torch.float64) if context else None
    with torch.no_grad():
        features, stream = net(x, vector), net.stream(3, 4, vector)
        padded = F.pad(x, (1, 0, 1, 0)).permute(0, 2, 3, 1)
        for row in range(6):
            stream.begin_row(padded[:, row, 1:])
            for column in range(4):
                torch.testing.assert_close(stream.step(column, padded[:, row + 1, column]), features[:, :, row, column])


def test_renaming_the_symbols_with_their_vectors_changes_nothing():
    net, order = small_net(), torch.tensor([3, 1, 4, 0, 2])
    levels = torch.randint(5, (2, 2, 6, 4))
    before = net(levels.double() / 4)
    with torch.no_grad():
        net.table.weight[order] = net.table.weight.clone()
    torch.testing.assert_close(net(order[levels].double() / 4), before)


def test_one_level_is_refused():
    with pytest.raises(UserError, match="levels=1"):
        build_backbone(BackboneConfig(name="symbol_pixelcnn", levels=1), (1, 4, 4))
