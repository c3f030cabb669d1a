"""Dicts of pictures and vectors: a network for each picture, one for the rest, joined."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from agents.policies.encoder import Encoder, JoinedNetworks
from lab.backbones import BackboneConfig
from lab.data.spec import TensorSpec

PICTURE = TensorSpec((3, 40, 36), torch.uint8, 0, 255)
SMALL = TensorSpec((1, 9, 8), torch.uint8, 0, 255)
INPUTS = {"speed": TensorSpec((2,)), "front": PICTURE, "gear": TensorSpec((), torch.int64, 0, 4), "map": SMALL}


def observation(batch: int) -> dict[str, torch.Tensor]:
    return {
        "speed": torch.randn(batch, 2),
        "front": torch.randint(0, 256, (batch, *PICTURE.shape), dtype=torch.uint8),
        "gear": torch.randint(0, 5, (batch,)),
        "map": torch.randint(0, 256, (batch, *SMALL.shape), dtype=torch.uint8),
    }


@pytest.mark.parametrize("config", [BackboneConfig("mlp", hidden=(16,)), BackboneConfig("lenet", hidden=8)])
def test_every_part_has_its_own_network(config: BackboneConfig) -> None:
    encoder, obs = Encoder(config, INPUTS), observation(5)
    net = encoder.backbone.net
    assert isinstance(net, JoinedNetworks)
    assert [picture.input_shape for picture in net.pictures] == [PICTURE.shape, SMALL.shape]
    assert all(any(isinstance(m, nn.Conv2d) for m in picture.modules()) for picture in net.pictures)
    assert net.others is not None
    assert net.others.input_shape == (2 + 5,)
    assert not any(isinstance(m, nn.Conv2d) for m in net.others.modules())
    features = encoder.backbone(encoder.prepare(obs))
    one_hot = torch.nn.functional.one_hot(obs["gear"], 5).float()
    expected = [
        net.pictures[0](obs["front"].float() / 255),
        net.pictures[1](obs["map"].float() / 255),
        net.others(torch.cat([obs["speed"], one_hot], 1)),
    ]
    torch.testing.assert_close(features, torch.cat([part.flatten(1) for part in expected], 1))
    assert features.shape == (5, encoder.num_features)


def test_pictures_alone_need_no_other_network() -> None:
    encoder = Encoder(BackboneConfig("lenet", hidden=8), {"left": SMALL, "right": SMALL})
    assert encoder.num_features == 16
    assert isinstance(encoder.backbone.net, JoinedNetworks)
    assert encoder.backbone.net.others is None


def test_a_memory_reads_all_parts_as_one_vector() -> None:
    encoder = Encoder(BackboneConfig("gru", hidden=8), INPUTS)
    assert encoder.backbone.input_shape == (2 + 3 * 40 * 36 + 5 + 72,)


def test_a_dict_of_vectors_stays_one_vector() -> None:
    encoder = Encoder(BackboneConfig("mlp"), {"a": TensorSpec((2,)), "b": TensorSpec((3, 4))})
    assert encoder.backbone.input_shape == (14,)
