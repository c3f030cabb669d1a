"""The LeNets that come with the lab, whose numbers are the same everywhere, and those of a user's own data."""

import importlib.resources

import pytest
import torch
from setuptools import Distribution
from setuptools.config.pyprojecttoml import apply_configuration

from generative.evaluation import feature_nets, make_feature_nets
from generative.evaluation.distances import distribution_metrics, frechet_distance
from generative.evaluation.feature_nets import FeatureNet, feature_net, shipped_net, split_arrays
from generative.evaluation.weight_files import load_weights
from lab.data.image_arrays import ImageArrays
from lab.data.images import ImageData, ImageModule
from lab.data.spec import TensorSpec
from lab.data.targets import Classes
from lab.errors import Failure, UserError
from tests.test_architecture import ROOT

NAMES = ("digits", "mnist", "fashion-mnist")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def own_data(monkeypatch):
    """Images that no LeNet of the lab was trained on: digits turned on their side."""
    monkeypatch.setitem(feature_nets.RECIPE, "updates", 20)
    digits = ImageData(name="digits").build(0)
    splits = {split: split_arrays(digits, split) for split in ("train", "test")}
    arrays = [((x[:, 0].mT * 16).round().byte().numpy(), y.numpy()) for x, y in splits.values()]
    return ImageModule(ImageData(name="turned"), ImageArrays(*arrays, levels=17), 0)


def waves(num, size, speed):
    """Smooth patterns (num, 1, size, size), the same on every machine but for the last digits of a sine."""
    t, k = torch.linspace(0, 1, size), torch.arange(float(num))[:, None, None]
    return (0.5 + 0.5 * torch.sin(k * t[:, None] * speed + 7 * t))[:, None]


# ---------------------------------------------------------------------- those that come with the lab

# The weights are the same everywhere, so two machines differ by how float32 products are rounded alone: against
# float64 the distances below move by 1e-7 of their size. A hundred times that is far from what another training
# changes, a large share of the value.
ROUNDING = 1e-5


def test_the_distance_of_digits_is_the_same_number_everywhere():
    data = ImageData(name="digits").build(0)
    x, _ = split_arrays(data, "train", 300)
    metrics = distribution_metrics(x, data, "test")
    assert metrics["eval/lenet_shipped"] == 1.0
    assert metrics["eval/lenet_frechet_distance"] == pytest.approx(5.14468226, rel=ROUNDING)
    assert metrics["eval/lenet_kernel_distance"] == pytest.approx(2.01949870, rel=ROUNDING)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [("digits", 8, 2.91397251), ("mnist", 28, 38.1401944), ("fashion-mnist", 28, 47.3525577)],
)
def test_the_distance_of_patterns_is_the_same_number_everywhere(name, size, expected):
    net = FeatureNet(shipped_net(name)[0], shipped=True, stacked=False)
    a, b = (net.features(waves(200, size, speed))[0] for speed in (0.3, 0.2))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_file_says_how_it_was_made_and_is_small(name):
    _, metadata = shipped_net(name)
    assert metadata["made_by"].endswith(f"make_feature_nets {name}")
    assert metadata["recipe"] == feature_nets.RECIPE
    assert len(metadata["data_hash"]) == len(metadata["weights"]) == 16
    assert metadata["test_accuracy"]["none"] > (0.87 if name == "fashion-mnist" else 0.98)
    assert (feature_nets.WEIGHTS / f"lenet-{name}.npz").stat().st_size < 500_000


def test_the_stated_accuracy_and_data_are_those_of_the_digits():
    net, metadata = shipped_net("digits")
    assert metadata["data_hash"] == feature_nets.data_hash("digits", "")
    for binarize, accuracy in metadata["test_accuracy"].items():
        x, y = split_arrays(ImageData(name="digits", binarize=binarize).build(0), "test")
        with torch.no_grad():
            assert float((net(x).argmax(1) == y).double().mean()) == pytest.approx(accuracy, abs=0.01)


@pytest.mark.parametrize("options", [{"binarize": "dynamic"}, {"num_train": 100}, {"validation": 0.5}])
def test_variants_of_a_data_set_are_measured_by_its_one_network(options, monkeypatch):
    monkeypatch.setattr(feature_nets, "train", lambda *_, **__: pytest.fail("nothing is to be trained"))
    assert feature_net(ImageData(name="digits", **options).build(0)).shipped


def test_a_wheel_has_the_weights(monkeypatch):
    monkeypatch.chdir(ROOT)
    distribution = apply_configuration(Distribution(), "pyproject.toml")
    patterns = distribution.package_data["generative.evaluation"]
    files = {path.name for pattern in patterns for path in (ROOT / "generative/evaluation").glob(pattern)}
    assert files == {f"lenet-{name}.npz" for name in NAMES}
    installed = importlib.resources.files("generative.evaluation") / "weights"
    assert files <= {path.name for path in installed.iterdir()}


def test_the_script_makes_the_file_again(tmp_path, monkeypatch):
    monkeypatch.setitem(feature_nets.RECIPE, "updates", 20)
    assert "lenet-digits.npz" in make_feature_nets.make("digits", None, tmp_path)
    net = feature_nets.lenet(TensorSpec((1, 8, 8)), 10)
    metadata = load_weights(tmp_path / "lenet-digits.npz", net)
    assert metadata["recipe"]["updates"] == 20
    assert metadata["data_hash"] == shipped_net("digits")[1]["data_hash"]
    first = {name: value.clone() for name, value in net.state_dict().items()}
    make_feature_nets.make("digits", None, tmp_path)
    load_weights(tmp_path / "lenet-digits.npz", net)
    assert all(torch.equal(first[name], value) for name, value in net.state_dict().items())


def test_a_damaged_installation_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_nets, "WEIGHTS", tmp_path)
    with pytest.raises(Failure, match="installation of the lab is damaged"):
        shipped_net("digits")


# ---------------------------------------------------------------------- those of a user's own data


def test_the_network_of_own_data_is_the_same_each_time_and_leaves_random_numbers_alone(own_data, monkeypatch):
    state = torch.get_rng_state()
    first = feature_net(own_data)
    assert not first.shipped
    assert torch.equal(state, torch.get_rng_state())
    monkeypatch.setattr(feature_nets, "train", lambda *_, **__: pytest.fail("it is in the cache"))
    cached = feature_net(own_data)
    x, _ = split_arrays(own_data, "test")
    assert torch.equal(first.features(x)[0], cached.features(x)[0])
    assert distribution_metrics(x, own_data, "val", full=False)["eval/lenet_shipped"] == 0.0


def test_a_damaged_cache_is_trained_again(own_data):
    first = feature_net(own_data)
    (path,) = feature_nets._cache_folder().iterdir()
    path.write_bytes(path.read_bytes()[:100])
    again = feature_net(own_data)
    x, _ = split_arrays(own_data, "test")
    assert torch.equal(first.features(x)[0], again.features(x)[0])
    load_weights(path, again.net)


def test_a_cache_that_cannot_be_written_is_only_slower(own_data, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "file"))
    assert not feature_net(own_data).shipped


def test_the_recipe_does_not_depend_on_the_number_of_threads(own_data, monkeypatch, tmp_path):
    features, threads = [], torch.get_num_threads()
    x, _ = split_arrays(own_data, "test")
    try:
        for num in (1, 2):
            monkeypatch.setenv("LAB_CACHE", str(tmp_path / f"threads{num}"))
            torch.set_num_threads(num)
            net = feature_net(own_data)
            assert torch.get_num_threads() == num
            torch.set_num_threads(1)
            features.append(net.features(x)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*features)


def test_data_without_classes_have_no_distance():
    data = ImageData(name="digits").build(0)
    data.spec = data.spec._replace(target=Classes(1))
    with pytest.raises(UserError, match=r"distances need images with class labels; data.name='digits'"):
        feature_net(data)
