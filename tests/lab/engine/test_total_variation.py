"""Total variation against a slow loop and closed forms, in both forms, with its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lab.engine.total_variation import Form, total_variation


def slow(image: Tensor, form: Form) -> float:
    """Of one image (C, H, W)."""
    total = 0.0
    channels, height, width = image.shape
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                down = float(image[c, i + 1, j] - image[c, i, j]) if i + 1 < height else 0.0
                right = float(image[c, i, j + 1] - image[c, i, j]) if j + 1 < width else 0.0
                total += abs(down) + abs(right) if form == "anisotropic" else math.hypot(down, right)
    return total


@pytest.mark.parametrize("form", ["anisotropic", "isotropic"])
def test_it_is_that_of_a_slow_loop(form: Form) -> None:
    images = torch.rand(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    assert total_variation(images, form).tolist() == pytest.approx([slow(image, form) for image in images], rel=1e-5)


def test_of_a_square_it_is_its_perimeter() -> None:
    image = torch.zeros(1, 1, 10, 10)
    image[..., 3:7, 2:8] = 0.5
    assert float(total_variation(image)) == pytest.approx(0.5 * 2 * (4 + 6))
    corner = 0.5 * (2 - math.sqrt(2))  # where both differences of a pixel are not 0
    assert float(total_variation(image, "isotropic")) == pytest.approx(0.5 * 20 - corner)


@pytest.mark.parametrize("form", ["anisotropic", "isotropic"])
def test_flat_images_have_neither_variation_nor_gradient(form: Form) -> None:
    images = torch.full((2, 3, 4, 4), 0.3, requires_grad=True)
    value = total_variation(images, form)
    (gradient,) = torch.autograd.grad(value.sum(), images)
    assert value.tolist() == [0, 0]
    assert not gradient.any()


@pytest.mark.parametrize("form", ["anisotropic", "isotropic"])
def test_its_gradient_is_that_of_differences(form: Form) -> None:
    images = torch.rand(1, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: total_variation(x, form), images)


@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (1, 1, 1, 3), (0, 1, 4, 4)])
def test_images_of_a_row_or_a_pixel_are_images(shape: tuple[int, ...]) -> None:
    assert total_variation(torch.ones(shape)).tolist() == [0.0] * shape[0]
