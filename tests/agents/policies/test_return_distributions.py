"""Return distributions against slow loops and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agents.policies.return_distributions import CategoricalConfig, ExpectedConfig, QuantileConfig


def slow_projection(values: Tensor, probs: Tensor, v_min: float, v_max: float) -> Tensor:
    """Bellemare et al. 2017, equation 7, entry by entry."""
    num_atoms = probs.shape[1]
    spacing = (v_max - v_min) / (num_atoms - 1)
    projected = torch.zeros_like(probs)
    for b in range(probs.shape[0]):
        for i in range(num_atoms):
            z = v_min + i * spacing
            for j in range(num_atoms):
                v = min(max(float(values[b, j]), v_min), v_max)
                projected[b, i] += max(0.0, 1 - abs(v - z) / spacing) * float(probs[b, j])
    return projected


def test_c51_target_agrees_with_the_slow_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    c51 = CategoricalConfig(num_atoms=11, v_min=-2.0, v_max=3.0).build("huber")
    logits = torch.randn(40, 11, generator=generator)
    reward = torch.randn(40, generator=generator) * 3
    discount = torch.where(torch.rand(40, generator=generator) < 0.3, 0.0, 0.9)
    target = c51.target(logits, reward, discount)
    moved = reward[:, None] + discount[:, None] * c51.atoms(logits)
    torch.testing.assert_close(target, slow_projection(moved, logits.softmax(-1), -2.0, 3.0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(target.sum(-1), torch.ones(40))


def test_c51_projection_is_exact_on_the_atoms_and_at_the_bounds() -> None:
    c51 = CategoricalConfig(num_atoms=5, v_min=0.0, v_max=4.0).build("huber")
    probs = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.0]])
    torch.testing.assert_close(c51.project(torch.arange(5.0)[None], probs), probs)
    everything_above = c51.project(torch.full((1, 5), 9.0), probs)
    torch.testing.assert_close(everything_above, torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]]))


def test_c51_loss_is_least_at_the_target() -> None:
    c51 = CategoricalConfig(num_atoms=7).build("huber")
    target = torch.rand(3, 7).softmax(-1)
    best, _ = c51.loss(target.log(), target)
    other, _ = c51.loss(target.log() + torch.randn(3, 7), target)
    assert (best < other).all()
    entropy = -(target * target.log()).sum(-1)
    torch.testing.assert_close(best, entropy)


def test_quantile_loss_agrees_with_the_slow_loop() -> None:
    quantile = QuantileConfig(num_quantiles=4, kappa=0.5).build("huber")
    outputs, target = torch.randn(5, 4), torch.randn(5, 4)
    loss, error = quantile.loss(outputs, target)
    for b in range(5):
        expected = 0.0
        for i in range(4):
            tau = (i + 0.5) / 4
            for j in range(4):
                u = float(target[b, j] - outputs[b, i])
                huber = 0.5 * u * u if abs(u) <= 0.5 else 0.5 * (abs(u) - 0.25)
                expected += abs(tau - (u < 0)) * huber / 0.5 / 4
        assert float(loss[b]) == pytest.approx(expected, rel=1e-4)
        assert float(error[b]) == pytest.approx(abs(float(target[b].mean() - outputs[b].mean())), rel=1e-4)


def test_quantiles_of_a_known_distribution_are_learned() -> None:
    quantile = QuantileConfig(num_quantiles=5, kappa=0.001).build("huber")
    outputs = torch.zeros(1, 5, requires_grad=True)
    samples = torch.linspace(0, 1, 2001)[None]
    optimizer = torch.optim.SGD([outputs], lr=0.2)
    for _ in range(400):
        optimizer.zero_grad()
        quantile.loss(outputs, samples).loss.sum().backward()
        optimizer.step()
    torch.testing.assert_close(outputs.detach(), torch.tensor([[0.1, 0.3, 0.5, 0.7, 0.9]]), atol=0.02, rtol=0)


@pytest.mark.parametrize(("name", "function"), [("huber", torch.nn.SmoothL1Loss()), ("mse", torch.nn.MSELoss())])
def test_expected_returns(name: str, function: torch.nn.Module) -> None:
    expected = ExpectedConfig().build(name)
    outputs, target = torch.randn(6, 1) * 2, torch.randn(6, 1) * 2
    loss, error = expected.loss(outputs, target)
    torch.testing.assert_close(loss.mean(), function(outputs, target))
    torch.testing.assert_close(error, (outputs - target).abs().squeeze(1))
    reward, discount = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0])
    next_outputs = torch.tensor([[10.0], [10.0]])
    torch.testing.assert_close(expected.target(next_outputs, reward, discount), torch.tensor([[6.0], [2.0]]))


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="v_min"):
        CategoricalConfig(v_min=1.0, v_max=-1.0)
