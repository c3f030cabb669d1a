"""Mixtures of discretized logistics against numerical integration of their density, edges included."""

import math

import pytest
import torch

from generative.autoregressive.logistic_mixture import (
    coupled_means,
    discretized_logistic_quantile,
    pixel_mixture_log_prob,
)


def integrated_mass(mean, scale, low, high, num=20_001):
    """The mass of a logistic density between `low` and `high`, by the trapezoidal rule; far ends are cut."""
    low, high = max(low, mean - 60 * scale), min(high, mean + 60 * scale)
    if high <= low:
        return 0.0
    x = torch.linspace(low, high, num, dtype=torch.float64)
    z = (x - mean) / scale
    density = torch.sigmoid(z) * torch.sigmoid(-z) / scale
    return float(torch.trapezoid(density, x))


@pytest.mark.parametrize("level", [0, 1, 100, 254, 255])
@pytest.mark.parametrize("means", [(0.1, 0.4), (-0.2, 1.3), (0.0, 1.0)])
@pytest.mark.parametrize("scales", [(0.003, 0.02), (0.3, 0.08)])
def test_mass_of_a_level_is_the_integral_of_the_density(level, means, scales):
    weights, half = (0.3, 0.7), 0.5 / 255
    low = -math.inf if level == 0 else level / 255 - half
    high = math.inf if level == 255 else level / 255 + half
    expected = sum(w * integrated_mass(m, s, low, high) for w, m, s in zip(weights, means, scales, strict=True))
    log_prob = pixel_mixture_log_prob(
        torch.tensor(weights, dtype=torch.float64).log().view(1, 2, 1, 1),
        torch.tensor(means, dtype=torch.float64).view(1, 1, 2, 1, 1),
        torch.tensor(scales, dtype=torch.float64).log().view(1, 1, 2, 1, 1),
        torch.full((1, 1, 1, 1), level / 255, dtype=torch.float64),
        256,
    )
    assert float(log_prob.exp()) == pytest.approx(expected, rel=1e-5, abs=1e-15)


@pytest.mark.parametrize("log_scale", [-9.0, -3.0, 2.0, 9.0])
@pytest.mark.parametrize("mean", [-30.0, 0.0, 0.5, 1.0, 30.0])
def test_levels_sum_to_one_and_gradients_are_finite_far_away(mean, log_scale):
    x = (torch.arange(256, dtype=torch.float64) / 255).view(256, 1, 1, 1)
    means = torch.full((256, 1, 1, 1, 1), mean, dtype=torch.float64, requires_grad=True)
    log_scales = torch.full((256, 1, 1, 1, 1), log_scale, dtype=torch.float64, requires_grad=True)
    log_prob = pixel_mixture_log_prob(torch.zeros(256, 1, 1, 1, dtype=torch.float64), means, log_scales, x, 256)
    assert float(torch.logsumexp(log_prob.flatten(), 0)) == pytest.approx(0, abs=1e-3 if log_scale > 8 else 1e-9)
    log_prob.sum().backward()
    assert means.grad is not None
    assert torch.isfinite(means.grad).all()
    assert torch.isfinite(log_scales.grad).all()


def test_quantile_draws_levels_with_their_masses():
    mean, log_scale = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-1.5, dtype=torch.float64)
    noise = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    drawn = (discretized_logistic_quantile(mean, log_scale, noise, 5) * 4).round().long()
    levels = (torch.arange(5, dtype=torch.float64) / 4).view(5, 1, 1, 1)
    expected = pixel_mixture_log_prob(
        torch.zeros(5, 1, 1, 1, dtype=torch.float64),
        mean.expand(5, 1, 1, 1, 1),
        log_scale.expand(5, 1, 1, 1, 1),
        levels,
        5,
    ).exp()
    shares = torch.bincount(drawn, minlength=5).double() / 200_000
    torch.testing.assert_close(shares, expected.flatten(), atol=2e-5, rtol=0)


def test_coupled_means_against_a_slow_loop():
    x, means, coupling = torch.rand(2, 3, 1, 2), torch.randn(2, 3, 4, 1, 2), torch.randn(2, 3, 4, 1, 2)
    moved = coupled_means(x, means, coupling)
    red, green, blue = means.unbind(1)
    torch.testing.assert_close(moved[:, 0], red)
    torch.testing.assert_close(moved[:, 1], green + coupling[:, 0] * x[:, 0, None])
    torch.testing.assert_close(moved[:, 2], blue + coupling[:, 1] * x[:, 0, None] + coupling[:, 2] * x[:, 1, None])
