import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generative import likelihoods


def test_bernoulli_is_the_log_of_a_product_of_bits():
    logits, x = torch.randn(3, 1, 2, 2), torch.randint(0, 2, (3, 1, 2, 2)).float()
    p = torch.sigmoid(logits)
    expected = torch.where(x == 1, p, 1 - p).log().flatten(1).sum(1)
    torch.testing.assert_close(likelihoods.bernoulli_log_prob(logits, x), expected)


def test_bernoulli_takes_sample_dimensions_before_the_batch():
    logits, x = torch.randn(5, 3, 1, 2, 2), torch.rand(3, 1, 2, 2)
    slow = torch.stack([likelihoods.bernoulli_log_prob(row, x) for row in logits])
    torch.testing.assert_close(likelihoods.bernoulli_log_prob(logits, x), slow)


def test_gaussian_density_agrees_with_torch():
    mean, log_scale, x = torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 4)
    expected = torch.distributions.Normal(mean, log_scale.exp()).log_prob(x)
    torch.testing.assert_close(likelihoods.gaussian_log_prob(mean, log_scale, x), expected)
    diagonal = likelihoods.diagonal_gaussian_log_prob(x, mean, 2 * log_scale)
    torch.testing.assert_close(diagonal, expected.sum(-1))
    torch.testing.assert_close(
        likelihoods.standard_normal_log_prob(x), torch.distributions.Normal(0, 1).log_prob(x).sum(-1)
    )


@settings(max_examples=30, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 2))
def test_gaussian_kl_agrees_with_integration(mean, log_variance):
    scale = math.exp(log_variance / 2)
    z = np.linspace(mean - 12 * scale, mean + 12 * scale, 20_001)
    log_q = -0.5 * (((z - mean) / scale) ** 2 + log_variance + math.log(2 * math.pi))
    log_p = -0.5 * (z**2 + math.log(2 * math.pi))
    integral = np.trapezoid(np.exp(log_q) * (log_q - log_p), z)
    kl = likelihoods.gaussian_kl(torch.tensor(mean).double(), torch.tensor(log_variance).double())
    assert float(kl) == pytest.approx(integral, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.5, 1.5), st.floats(-6, 2), st.sampled_from([2, 17, 256]))
def test_discretized_logistic_probabilities_sum_to_one(mean, log_scale, levels):
    x = torch.arange(levels).double() / (levels - 1)
    log_prob = likelihoods.discretized_logistic_log_prob(
        torch.tensor(mean).double(), torch.tensor(log_scale).double(), x, levels
    )
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-6)


def test_discretized_logistic_is_the_difference_of_distribution_functions():
    levels, mean, log_scale = 17, torch.tensor(0.4).double(), torch.tensor(-2.0).double()
    x = torch.arange(1, levels - 1).double() / (levels - 1)
    half = 0.5 / (levels - 1)
    upper, lower = (torch.sigmoid((x + s * half - mean) * torch.exp(-log_scale)) for s in (1, -1))
    log_prob = likelihoods.discretized_logistic_log_prob(mean, log_scale, x, levels)
    torch.testing.assert_close(log_prob, (upper - lower).log())


def test_discretized_logistic_has_finite_gradients_far_from_its_mean():
    mean = torch.tensor([0.0, 0.0, 1.0, 0.5], requires_grad=True)
    log_scale = torch.tensor([-7.5, -7.5, -7.5, 4.5], requires_grad=True)
    x = torch.tensor([1.0, 0.5, 0.0, 0.5])
    log_prob = likelihoods.discretized_logistic_log_prob(mean, log_scale, x, 256)
    log_prob.sum().backward()
    assert bool(log_prob.isfinite().all())
    assert bool(mean.grad.isfinite().all())
    assert bool(log_scale.grad.isfinite().all())


def test_importance_weighted_bound_of_one_sample_is_its_weight():
    log_weights = torch.randn(7, 1)
    torch.testing.assert_close(likelihoods.importance_weighted_bound(log_weights), log_weights[:, 0])


def test_importance_weighted_bound_grows_with_samples():
    log_weights = 2 * torch.randn(4000, 64, dtype=torch.float64)
    bounds = [
        float(likelihoods.importance_weighted_bound(log_weights.unflatten(1, (-1, k)), dim=2).mean())
        for k in (1, 4, 16, 64)
    ]
    assert bounds == sorted(bounds)
    assert bounds[-1] < 2.0  # log E[w] of this log-normal


def test_bits_per_dim():
    assert likelihoods.bits_per_dim(64 * math.log(2), 64) == pytest.approx(1)
