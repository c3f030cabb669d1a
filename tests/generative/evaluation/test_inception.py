import pytest
import torch

from generative.evaluation import distances, inception
from generative.evaluation.distances import frechet_distance
from generative.evaluation.feature_nets import split_arrays
from lab.data.images import ImageData
from lab.errors import UserError


class FakeInception(torch.nn.Module):
    def forward(self, pixels):
        assert pixels.dtype == torch.uint8
        assert pixels.shape[1:] == (3, 8, 8)
        return (pixels[:, 0].flatten(1)[:, :5].float() / 255,)


def test_inception_where_it_is_at_hand_has_metrics_of_its_own(monkeypatch):
    data = ImageData(name="digits").build(0)
    monkeypatch.setattr(distances, "inception_net", lambda device: inception.InceptionNet(FakeInception(), device))
    (train, _), (real, _) = (split_arrays(data, split) for split in ("train", "test"))
    metrics = distances.distribution_metrics(train[:300], data, "test")
    assert metrics["eval/inception_frechet_distance"] == metrics["eval/inception_frechet_floor"] > 0
    pixels = [(images[..., 0, :5].flatten(1) * 255).round() / 255 for images in (train[:300], real)]
    assert metrics["eval/inception_frechet_distance"] == pytest.approx(frechet_distance(*pixels), rel=1e-6)
    assert "eval/inception_kernel_distance" in metrics
    assert "eval/inception_frechet_distance" not in distances.distribution_metrics(train[:9], data, "test", full=False)


def test_without_inceptions_weights_the_lenet_stands_in(monkeypatch, tmp_path):
    monkeypatch.delenv("LAB_INCEPTION", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert inception.inception_net(torch.device("cpu")) is None
    monkeypatch.setenv("LAB_INCEPTION", str(tmp_path / "nowhere.pth"))
    with pytest.raises(UserError, match="is no file"):
        inception.inception_net(torch.device("cpu"))
    other = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, other)
    monkeypatch.setenv("LAB_INCEPTION", str(other))
    with pytest.raises(UserError, match="SHA-256"):
        inception.inception_net(torch.device("cpu"))
