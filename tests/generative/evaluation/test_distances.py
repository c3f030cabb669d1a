import math

import pytest
import torch

from generative.evaluation import distances
from generative.evaluation.distances import frechet_distance, kernel_distance, manifold_metrics
from generative.evaluation.feature_nets import split_arrays
from lab.data.images import ImageData
from lab.errors import UserError


@pytest.fixture(autouse=True)
def _seed(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)


def test_frechet_distance_of_gaussians_in_closed_form():
    x = torch.randn(20_000, 3).double()
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T)).T)  # exactly white
    scale, shift = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([0.0, 1.0, -2.0]).double()
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    expected = float(shift.square().sum() + (1 - scale).square().sum())
    assert frechet_distance(x, x * scale + shift) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_agrees_with_the_matrix_square_root():
    scipy_linalg = pytest.importorskip("scipy.linalg")
    a, b = torch.randn(200, 5).double() @ torch.randn(5, 5).double(), torch.randn(300, 5).double() + 1
    cov_a, cov_b = torch.cov(a.T).numpy(), torch.cov(b.T).numpy()
    root = scipy_linalg.sqrtm(cov_a @ cov_b).real
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + (cov_a + cov_b - 2 * root).trace()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_kernel_distance_agrees_with_a_slow_loop():
    a, b = torch.randn(6, 4).double(), torch.randn(5, 4).double() + 0.5

    def kernel(x, y):
        return float((x @ y / 4 + 1) ** 3)

    within_a = sum(kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j) / 30
    within_b = sum(kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j) / 20
    across = sum(kernel(x, y) for x in a for y in b) / 30
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * across)


def test_manifold_metrics_agree_with_a_slow_loop():
    real, fake, k = torch.randn(40, 2), torch.randn(30, 2) * 0.5 + 0.5, 3

    def radius(point, points):
        return float(sorted((point - other).norm() for other in points)[k])

    real_radii, fake_radii = [radius(p, real) for p in real], [radius(p, fake) for p in fake]
    inside = [[float((f - r).norm()) <= radius for r, radius in zip(real, real_radii, strict=True)] for f in fake]
    covered = [any(row[i] for row in inside) for i in range(len(real))]
    recalled = [any(float((r - f).norm()) <= radius for f, radius in zip(fake, fake_radii, strict=True)) for r in real]
    manifold = manifold_metrics(real, fake, neighbours=k)
    assert manifold.precision == pytest.approx(sum(map(any, inside)) / 30)
    assert manifold.recall == pytest.approx(sum(recalled) / 40)
    assert manifold.density == pytest.approx(sum(map(sum, inside)) / (k * 30))
    assert manifold.coverage == pytest.approx(sum(covered) / 40)


def test_nearest_neighbours_finds_a_copied_image():
    data = ImageData(name="digits").build(0)
    train, _ = split_arrays(data, "train")
    nearest = distances.nearest_neighbours(train[[7, 1031]] + 0.001, data)
    torch.testing.assert_close(nearest, train[[7, 1031]])


@pytest.mark.slow
def test_real_images_come_out_near_the_floor_noise_and_one_class_far_from_it():
    data = ImageData(name="digits").build(0)
    (train, labels), (val, _) = (split_arrays(data, split) for split in ("train", "val"))
    real = distances.distribution_metrics(torch.cat([train[700:], val]), data, "test")
    noise = distances.distribution_metrics(torch.rand(500, 1, 8, 8), data, "test")
    zeros = distances.distribution_metrics(train[labels == 0], data, "test")
    assert real["eval/lenet_frechet_ratio"] < 2 < 8 < zeros["eval/lenet_frechet_ratio"]
    assert noise["eval/lenet_frechet_ratio"] > 8
    assert real["eval/lenet_modes"] == 10
    assert zeros["eval/lenet_modes"] == 1
    assert zeros["eval/lenet_class_kl"] == pytest.approx(math.log(10), abs=0.1)
    assert real["eval/lenet_class_kl"] < 0.05
    assert real["eval/lenet_coverage"] > 0.8 > 0.3 > zeros["eval/lenet_coverage"]
    assert real["eval/lenet_precision"] > 0.8 > noise["eval/lenet_precision"]


def test_a_handful_of_images_has_no_distance():
    data = ImageData(name="digits").build(0)
    data._splits["test"] = tuple(part[:5] for part in data._splits["test"])
    with pytest.raises(UserError, match="more than 5 images, but the test split has 5"):
        distances.check_enough(data, "test")
    distances.check_enough(data, "val")
