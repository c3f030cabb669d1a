"""What heads get of backbones: vectors of all, maps of staged ones, sequences of recurrent ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lab.backbones import BACKBONES, BackboneConfig, build_backbone
from lab.backbones.features import Features
from lab.errors import UserError
from tests.lab.backbones.registered import NAMES, each

IMAGE = (2, 5, 3)
STAGED = [name for name in NAMES if BACKBONES[name].staged]


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


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_bidirectional_backbone_reads_from_both_ends(cell: Any) -> None:
    torch.manual_seed(0)
    kind = Features(BackboneConfig(name="bidirectional", cell=cell, hidden=4), IMAGE, "sequence")
    x = torch.rand(6, 2, 5, 3)
    rows = x.transpose(1, 2).flatten(2)  # (B, T, D)
    both = bidirectional_of(kind.backbone.net)
    steps = both(rows)[0]  # (B, T, F)
    torch.testing.assert_close(kind(x), steps)
    vector = Features(BackboneConfig(name="bidirectional", cell=cell, hidden=4), IMAGE)
    vector.load_state_dict(kind.state_dict())
    torch.testing.assert_close(vector(x), torch.cat([steps[:, -1, :4], steps[:, 0, 4:]], -1))
    assert (kind.spec.shapes, vector.spec.shapes) == (((5, 8),), ((8,),))


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_bidirectional_backbone_reads_padded_sequences_as_torch_reads_packed_ones(cell: Any) -> None:
    torch.manual_seed(0)
    net = Features(BackboneConfig("bidirectional", cell=cell, hidden=4, num_layers=2), (7, 3), "places")
    x, lengths = torch.rand(3, 7, 3), torch.tensor([7, 1, 4])
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(bidirectional_of(net.backbone.net)(packed)[0], batch_first=True)
    places = net(x, lengths)
    assert torch.equal(places.lengths, lengths)
    torch.testing.assert_close(places.values[places.mask], expected[places.mask])


def bidirectional_of(net: Any) -> nn.Module:
    """torch's own, with the same weights."""
    first = net.forwards[0]
    both = type(first)(first.input_size, first.hidden_size, len(net.forwards), batch_first=True, bidirectional=True)
    with torch.no_grad():
        for layer, pair in enumerate(zip(net.forwards, net.backwards, strict=True)):
            for core, ending in zip(pair, ("", "_reverse"), strict=True):
                for name, value in core.named_parameters():
                    getattr(both, name.replace("l0", f"l{layer}") + ending).copy_(value)
    return both


@pytest.mark.parametrize("name", [name for name in NAMES if BACKBONES[name].recurrent or BACKBONES[name].sequential])
@pytest.mark.parametrize("kind", ["vector", "places"])
def test_what_is_behind_a_sequences_end_changes_nothing(name: str, kind: Any) -> None:
    torch.manual_seed(0)
    net = Features(BackboneConfig(name), (6, 8), kind).eval()
    x, lengths = torch.rand(3, 6, 8), torch.tensor([6, 1, 4])
    both = net(x, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = net(x[row : row + 1, :length], lengths[row : row + 1])
        if kind == "vector":
            torch.testing.assert_close(both[row], alone[0])
        else:
            torch.testing.assert_close(both.values[row, :length], alone.values[0])


def test_a_transformer_sees_no_step_after() -> None:
    torch.manual_seed(0)
    net = Features(BackboneConfig(name="transformer", width=8, heads=2), (6, 3), "sequence").eval()
    x = torch.rand(2, 6, 3)
    changed = x.clone()
    changed[:, 3] += 1
    same = (net(x) - net(changed)).abs().amax((0, 2)) < 1e-6
    assert same.tolist() == [True, True, True, False, False, False]
    with pytest.raises(UserError, match="width=9 is no multiple of heads=2"):
        Features(BackboneConfig(name="transformer", width=9, heads=2), (6, 3))


def test_a_core_over_an_encoder_reads_its_features() -> None:
    torch.manual_seed(0)
    encoder = BackboneConfig("lenet", channels=(2, 3), hidden=5)
    backbone = build_backbone(BackboneConfig("lstm", hidden=4, encoder=encoder), (1, 8, 8))
    x, reset = torch.rand(6, 2, 1, 8, 8), torch.zeros(6, 2, dtype=torch.bool)
    features, _ = backbone(x, backbone.initial_state(2), reset)
    net = backbone.net
    encoded = torch.stack([net.encoder(step) for step in x])
    torch.testing.assert_close(features, net.core(encoded)[0])
    assert BackboneConfig(**backbone_options("lstm", "lenet")) == BackboneConfig(
        "lstm", encoder=BackboneConfig("lenet")
    )


def backbone_options(name: str, encoder: str) -> dict[str, Any]:
    """As a file holds them."""
    return {"name": name, "encoder": {"name": encoder}}


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


@each(STAGED)
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
        for inner, stride in zip(maps, pyramid.spec.strides, strict=True):
            assert abs(inner.shape[2] - shape[1] / stride) <= 4  # convolutions without padding lose a few
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
        (
            "lenet",
            (1, 8, 8),
            "sequence",
            "'lenet' gives no sequence, which the task needs. Valid choices: bidirectional, ",
        ),
        ("gru", (8,), "vector", "'gru' reads sequences; inputs of shape (8,) are none"),
    ],
)
def test_what_a_backbone_cannot_give_is_refused(name: str, shape: tuple[int, ...], kind: Any, part: str) -> None:
    with pytest.raises(UserError) as error:
        Features(BackboneConfig(name=name), shape, kind)
    assert part in str(error.value)
