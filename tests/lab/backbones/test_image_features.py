import pytest
import torch

from lab.backbones import BackboneConfig
from lab.backbones.image_features import ImageFeatures
from lab.data.spec import TensorSpec
from lab.supervised.classifier import ClassifierNet

IMAGE = TensorSpec((2, 5, 3))


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_recurrent_backbone_reads_an_image_row_by_row(name):
    torch.manual_seed(0)
    net = ImageFeatures(BackboneConfig(name=name, hidden=4), IMAGE.shape)
    x = torch.rand(6, 2, 5, 3)
    state, no_reset = net.backbone.initial_state(6), torch.zeros(1, 6, dtype=torch.bool)
    for row in range(5):
        step = torch.cat([x[:, 0, row], x[:, 1, row]], 1)[None]  # (1, B, C * W)
        features, state = net.backbone(step, state, no_reset)
    torch.testing.assert_close(net(x), features[0])
    assert net(x).shape == (6, net.num_features)


@pytest.mark.parametrize(
    "options", [{"name": "mlp", "hidden": (7,)}, {"name": "dcgan", "channels": (4,), "flatten": False}]
)
def test_other_backbones_give_their_output_as_a_vector(options):
    net = ImageFeatures(BackboneConfig(**options), (1, 8, 8))
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(net(x), net.backbone(x).flatten(1))
    assert net(x).shape == (3, net.num_features)


def test_a_classifier_is_features_and_a_linear_layer():
    net = ClassifierNet(BackboneConfig(name="gru", hidden=4), IMAGE, num_classes=3)
    x = torch.rand(6, 2, 5, 3)
    torch.testing.assert_close(net(x), net.head(net.features(x)))
    assert {name.partition(".")[0] for name in net.state_dict()} == {"features", "head"}
