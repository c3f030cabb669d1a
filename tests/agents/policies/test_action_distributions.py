"""Log-probabilities against numerical integration and torch.distributions, entropies, samples, bounds."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td

from agents.policies.action_distributions import (
    CategoricalActions,
    DiagonalGaussian,
    MultiCategoricalActions,
    SquashedGaussian,
    distribution_of,
)
from lab.data.spec import Continuous, DataSpec, Discrete, MultiDiscrete, TensorSpec
from lab.data.targets import Classes
from lab.errors import UserError

BOUNDS = Continuous((-2.0,), (3.0,))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_categorical_equals_torch_distributions() -> None:
    logits = torch.randn(50, 4, generator=generator())
    action = torch.randint(4, (50,), generator=generator(1))
    log_prob, entropy = CategoricalActions(Discrete(4)).log_prob_entropy(logits, action)
    expected = td.Categorical(logits=logits)
    torch.testing.assert_close(log_prob, expected.log_prob(action))
    torch.testing.assert_close(entropy, expected.entropy())


def test_categorical_samples_have_the_probabilities_of_the_logits() -> None:
    logits = torch.tensor([0.5, -1.0, 1.5])
    categorical = CategoricalActions(Discrete(3))
    samples = categorical.sample(logits, categorical.noise((40_000,), generator()))
    frequencies = torch.bincount(samples, minlength=3) / 40_000
    torch.testing.assert_close(frequencies, logits.softmax(0), atol=0.01, rtol=0)
    assert int(categorical.sample(logits, None)) == 2


def test_several_discrete_actions_are_independent_parts() -> None:
    both = MultiCategoricalActions(MultiDiscrete((3, 2)))
    logits = torch.randn(20, 5, generator=generator())
    action = both.sample(logits, both.noise((20,), generator(1)))
    assert action.shape == (20, 2)
    log_prob, entropy = both.log_prob_entropy(logits, action)
    first, second = td.Categorical(logits=logits[:, :3]), td.Categorical(logits=logits[:, 3:])
    torch.testing.assert_close(log_prob, first.log_prob(action[:, 0]) + second.log_prob(action[:, 1]))
    torch.testing.assert_close(entropy, first.entropy() + second.entropy())


def test_gaussian_equals_torch_distributions_and_is_clipped_for_the_environment() -> None:
    gaussian = DiagonalGaussian(Continuous((-1.0, -2.0), (1.0, 2.0)))
    parameters = torch.randn(30, 4, generator=generator())
    action = gaussian.sample(parameters, 3 * gaussian.noise((30,), generator(1)))
    expected = td.Normal(parameters[:, :2], parameters[:, 2:].clamp(max=2).exp())
    log_prob, entropy = gaussian.log_prob_entropy(parameters, action)
    torch.testing.assert_close(log_prob, expected.log_prob(action).sum(1))
    torch.testing.assert_close(entropy, expected.entropy().sum(1))
    in_env = gaussian.to_env(action)
    assert (in_env.abs() <= torch.tensor([1.0, 2.0])).all()
    assert (action.abs() > torch.tensor([1.0, 2.0])).any()


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (1.5, -1.0), (-0.7, 0.5)])
def test_squashed_gaussian_density_integrates_to_probabilities(mean: float, log_std: float) -> None:
    """The density of a over an interval of the environment's actions, integrated, is the share of samples in it."""
    squashed = SquashedGaussian(BOUNDS)
    a = torch.linspace(-2 + 1e-9, 3 - 1e-9, 400_001, dtype=torch.float64)[1:-1]
    u = torch.atanh((a - 0.5) / 2.5)
    parameters = torch.tensor([mean, log_std], dtype=torch.float64).expand(len(a), 2)
    density = squashed.log_prob_entropy(parameters, u[:, None])[0].exp()
    assert float(torch.trapezoid(density, a)) == pytest.approx(1.0, abs=1e-3)  # the tails are steep
    for low, high in ((-1.0, 0.0), (0.5, 2.0)):
        inside = (a >= low) & (a <= high)
        normal = td.Normal(mean, torch.tensor(log_std).exp())
        edges = torch.atanh((torch.tensor([low, high]) - 0.5) / 2.5)
        expected = float(normal.cdf(edges[1]) - normal.cdf(edges[0]))
        assert float(torch.trapezoid(density[inside], a[inside])) == pytest.approx(expected, abs=1e-4)


def test_squashed_gaussian_entropy_estimate_has_the_integral_as_its_mean_and_its_gradient() -> None:
    squashed = SquashedGaussian(BOUNDS)

    def integral(parameters: torch.Tensor) -> torch.Tensor:
        u = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
        log_p = td.Normal(parameters[0], parameters[1].exp()).log_prob(u)
        log_slope = torch.log(2.5 * (1 - torch.tanh(u).square()).clamp_min(1e-300))
        return torch.trapezoid(-log_p.exp() * (log_p - log_slope), u)

    parameters = torch.tensor([0.6, -0.3], dtype=torch.float64, requires_grad=True)
    noise = torch.randn(200_000, 1, generator=generator(), dtype=torch.float64)
    rows = parameters.expand(len(noise), 2)
    action = squashed.sample(rows, noise).detach()
    estimate = squashed.log_prob_entropy(rows, action)[1].mean()
    exact = integral(parameters)
    assert float(estimate) == pytest.approx(float(exact), abs=0.01)
    got, expected = (torch.autograd.grad(value, parameters)[0] for value in (estimate, exact))
    torch.testing.assert_close(got, expected, atol=0.01, rtol=0)


def test_squashed_gaussian_is_finite_far_out_and_stays_within_the_bounds() -> None:
    squashed = SquashedGaussian(BOUNDS)
    u = torch.tensor([[-40.0], [40.0]])
    assert torch.isfinite(squashed.log_prob_entropy(torch.zeros(2, 2), u)[0]).all()
    torch.testing.assert_close(squashed.to_env(u), torch.tensor([[-2.0], [3.0]]))


def test_wrong_specs_are_refused_with_a_sentence() -> None:
    with pytest.raises(UserError, match="bounds"):
        SquashedGaussian(Continuous((-float("inf"),), (float("inf"),)))
    with pytest.raises(UserError, match="environment"):
        distribution_of(DataSpec(TensorSpec((4,)), target=Classes(10)))
