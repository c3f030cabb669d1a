"""What heads get of backbones: vectors of all, maps of staged ones, sequences of recurrent ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lab.backbones import BACKBONES, BackboneConfig
from lab.backbones.features import Features
from lab.errors import UserError

IMAGE = (2, 5, 3)
STAGED = sorted(name for name, each in BACKBONES.imported().items() if each.staged)


@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("kind", ["vector", "sequence"])
def test_a_recurrent_backbone_reads_an_image_row_by_row(name: str, kind: Any) -> None:
    torch.manual_seed(0)
    net = Features(BackboneConfig(name=name, hidden=4), IMAGE, kind)
    x = torch.rand(6, 2, 5, 3)
    state, no_reset, outputs = net.backbone.initial_state(6), torch.zeros(1, 6, dtype=torch.bool), []
    for row in range(5):
        step = torch.cat([x[:, 0, row], x[:, 1, row]], 1)[None]  # (1, B, C * W)
        features, state = net.backbone(step, state, no_reset)
        outputs.append(features[0])
    torch.testing.assert_close(net(x), outputs[-1] if kind == "vector" else torch.stack(outputs, 1))
    assert net.spec == (kind, ((4,),) if kind == "vector" else ((5, 4),), ())


def test_a_recurrent_backbone_reads_sequences() -> None:
    net = Features(BackboneConfig(name="gru", hidden=4), (7, 3), "sequence")
    assert net(torch.rand(2, 7, 3)).shape == (2, 7, 4)
    assert net.spec.shapes == ((7, 4),)


@pytest.mark.parametrize(
    "options", [{"name": "mlp", "hidden": (7,)}, {"name": "dcgan", "channels": (4,), "flatten": False}]
)
def test_other_backbones_give_their_output_as_a_vector(options: dict[str, Any]) -> None:
    net = Features(BackboneConfig(**options), (1, 8, 8))
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(net(x), net.backbone(x).flatten(1))
    assert net(x).shape == (3, net.num_features)


@pytest.mark.parametrize("name", STAGED)
def test_maps_are_what_the_spec_says(name: str) -> None:
    """Also of sizes that strides do not divide; the last map of the pyramid is the map; the vector follows from it."""
    torch.manual_seed(0)
    channels, height, width = BACKBONES[name].example_shape
    for shape in ((channels, height, width), (channels, height + 3, width + 1)):
        x = torch.rand(2, *shape)
        pyramid = Features(BackboneConfig(name=name), shape, "pyramid").eval()
        maps = pyramid(x)
        assert pyramid.spec.shapes == tuple(tuple(each.shape[1:]) for each in maps)
        assert len(maps) == len(pyramid.spec.strides) > 1
        assert list(pyramid.spec.strides) == sorted(pyramid.spec.strides)
        for each, stride in zip(maps, pyramid.spec.strides, strict=True):
            assert abs(each.shape[2] - shape[1] / stride) <= 4  # convolutions without padding lose a few
        net = pyramid.backbone.net
        assert torch.equal(net[max(net.ends) + 1 :](maps[-1]), net(x))
        last = Features(BackboneConfig(name=name), shape, "map")
        assert (last.spec.shapes, last.spec.strides) == (pyramid.spec.shapes[-1:], pyramid.spec.strides[-1:])
        assert last(x).shape[1:] == last.spec.shapes[0]


@pytest.mark.parametrize(
    ("name", "shape", "kind", "part"),
    [
        ("mlp", (1, 8, 8), "map", "'mlp' gives no map, which the task needs. Valid choices: "),
        ("lstm", (1, 8, 8), "pyramid", "'lstm' gives no pyramid of maps"),
        ("lenet", (1, 8, 8), "sequence", "'lenet' gives no sequence, which the task needs. Valid choices: gru, lstm"),
        ("gru", (8,), "vector", "'gru' reads sequences; inputs of shape (8,) are none"),
    ],
)
def test_what_a_backbone_cannot_give_is_refused(name: str, shape: tuple[int, ...], kind: Any, part: str) -> None:
    with pytest.raises(UserError) as error:
        Features(BackboneConfig(name=name), shape, kind)
    assert part in str(error.value)
