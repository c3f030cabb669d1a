import gzip
import struct

import numpy as np
import pytest
import torch

from generative.adversarial.stacked_mnist import stacked
from generative.evaluation import feature_nets
from generative.evaluation.distances import distribution_metrics
from generative.evaluation.feature_nets import feature_net, spelled, split_arrays
from lab.data.images import ImageData


@pytest.fixture
def bars(tmp_path, monkeypatch):
    """MNIST's four files with ten patterns that anybody can tell apart: class k is bright in row k of ten."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "mnist"
    folder.mkdir()
    for stem, num in (("train", 600), ("t10k", 400)):
        labels = np.arange(num, dtype=np.uint8) % 10
        images = generator.integers(0, 60, (num, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[4 + 2 * label : 6 + 2 * label] = 255
        for name, array in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
            header = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes(), 1))
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(feature_nets.RECIPE, "updates", 150)
    return ImageData(name="stacked-mnist", root=str(tmp_path)).build(0)


def test_each_digit_occurs_once_in_each_channel_and_the_label_spells_the_three():
    images = np.arange(50, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    labels = np.arange(50) % 10
    x, y = stacked(images, labels, seed=3)
    assert x.shape == (50, 2, 2, 3)
    for channel in range(3):
        assert sorted(x[:, 0, 0, channel]) == list(range(50))
    assert np.array_equal(y, (x[:, 0, 0] % 10) @ [100, 10, 1])
    assert np.array_equal(stacked(images, labels, seed=3)[0], x)
    assert not np.array_equal(stacked(images, labels, seed=4)[0], x)


def test_numbers_are_spelled_with_the_first_digit_highest():
    assert spelled(torch.tensor([[1, 2, 3], [0, 0, 9]]), 10).tolist() == [123, 9]


@pytest.mark.slow
def test_modes_are_counted_channel_by_channel(bars):
    assert bars.spec.inputs.shape == (3, 28, 28)
    assert bars.spec.target.num == 1000
    x, y = split_arrays(bars, "test")
    net = feature_net(bars)
    assert not net.shipped  # files of MNIST's names with another content
    features, classes = net.features(x)
    assert features.shape == (400, 3 * 64)
    assert float((classes == y).double().mean()) > 0.98
    metrics = distribution_metrics(x[:100], bars, "test", full=False)
    assert metrics["eval/lenet_modes_seen"] == pytest.approx(len(y[:100].unique()), abs=2)
    one = distribution_metrics(x[:1].expand(50, -1, -1, -1), bars, "test", full=False)
    assert one["eval/lenet_modes_seen"] == one["eval/lenet_modes"] == 1


def test_of_mnist_itself_each_channel_is_measured_by_mnists_network(bars, monkeypatch):
    net, metadata = feature_nets.shipped_net("mnist")
    monkeypatch.setattr(feature_nets, "data_hash", lambda name, folder: metadata["data_hash"] * (name == "mnist"))
    stacked_net = feature_net(bars)
    assert stacked_net.shipped
    x, _ = split_arrays(bars, "test", 20)
    features, classes = stacked_net.features(x)
    with torch.no_grad():
        expected = [net.features(channel[:, None]) for channel in x.unbind(1)]
        digits = [net(channel[:, None]).argmax(1) for channel in x.unbind(1)]
    torch.testing.assert_close(features.float(), torch.cat(expected, 1))
    assert torch.equal(classes, spelled(torch.stack(digits, 1), 10))
