"""Returns, GAE and V-trace against slow loops, closed forms and another library's numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agents.returns import discounted_returns, gae, td_target, vtrace

T, N = 9, 5


@pytest.fixture
def rollout() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def normal() -> Tensor:
        return torch.randn(T, N, generator=generator, dtype=torch.float64)

    terminated = torch.rand(T, N, generator=generator) < 0.15
    truncated = (torch.rand(T, N, generator=generator) < 0.15) & ~terminated
    assert terminated.any()
    assert truncated.any()
    return {
        "reward": normal(),
        "values": normal(),
        "next_values": normal(),
        "terminated": terminated,
        "truncated": truncated,
    }


def test_discounted_returns_sum_rewards_up_to_the_end_and_bootstrap_only_where_cut(rollout: dict[str, Tensor]) -> None:
    gamma = 0.9
    got = discounted_returns(
        rollout["reward"], rollout["terminated"], rollout["truncated"], rollout["next_values"], gamma
    )
    for n in range(N):
        for t in range(T):
            expected, discount = 0.0, 1.0
            for s in range(t, T):
                expected += discount * float(rollout["reward"][s, n])
                discount *= gamma
                if rollout["terminated"][s, n]:
                    break
                if rollout["truncated"][s, n] or s == T - 1:
                    expected += discount * float(rollout["next_values"][s, n])
                    break
            assert float(got[t, n]) == pytest.approx(expected, abs=1e-12)


def test_discounted_returns_of_ones_are_a_geometric_series() -> None:
    no, zero = torch.zeros(50, 1, dtype=torch.bool), torch.zeros(50, 1)
    end = no.clone()
    end[-1] = True
    got = discounted_returns(torch.ones(50, 1), end, no, zero, 0.97)
    lengths = torch.arange(50, 0, -1.0)[:, None]
    torch.testing.assert_close(got, (1 - 0.97**lengths) / (1 - 0.97))


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_gae_is_the_weighted_sum_of_td_errors(rollout: dict[str, Tensor], gae_lambda: float) -> None:
    gamma = 0.9
    got = gae(**rollout, gamma=gamma, gae_lambda=gae_lambda)
    for n in range(N):
        for t in range(T):
            expected = 0.0
            for s in range(t, T):
                live = 0.0 if rollout["terminated"][s, n] else 1.0
                delta = rollout["reward"][s, n] + gamma * live * rollout["next_values"][s, n] - rollout["values"][s, n]
                expected += (gamma * gae_lambda) ** (s - t) * float(delta)
                if rollout["terminated"][s, n] or rollout["truncated"][s, n]:
                    break
            assert float(got[t, n]) == pytest.approx(expected, abs=1e-12)


def test_gae_with_lambda_one_is_the_return_minus_the_value(rollout: dict[str, Tensor]) -> None:
    # next_values here are arbitrary, so telescoping needs them to be the values of the next row where it goes on
    consistent = dict(rollout)
    going = ~(rollout["terminated"] | rollout["truncated"])[:-1]
    consistent["next_values"] = rollout["next_values"].clone()
    consistent["next_values"][:-1][going] = rollout["values"][1:][going]
    returns = discounted_returns(
        rollout["reward"], rollout["terminated"], rollout["truncated"], consistent["next_values"], 0.9
    )
    advantages = gae(**consistent, gamma=0.9, gae_lambda=1.0)
    torch.testing.assert_close(advantages, returns - rollout["values"])


def test_a_cut_bootstraps_and_an_end_does_not() -> None:
    no = torch.zeros(1, 1, dtype=torch.bool)
    one, ten = torch.ones(1, 1), torch.full((1, 1), 10.0)
    assert float(discounted_returns(one, ~no, no, ten, 0.5)) == 1.0
    assert float(discounted_returns(one, no, ~no, ten, 0.5)) == 6.0
    assert float(gae(one, one, ten, ~no, no, 0.5, 0.9)) == 0.0
    assert float(gae(one, one, ten, no, ~no, 0.5, 0.9)) == 5.0


@pytest.mark.parametrize(("rho_bar", "c_bar", "trace_lambda"), [(1.0, 1.0, 1.0), (2.0, 0.7, 0.9)])
def test_vtrace_is_equation_1_of_the_paper(
    rollout: dict[str, Tensor], rho_bar: float, c_bar: float, trace_lambda: float
) -> None:
    gamma = 0.9
    log_rhos = torch.randn(T, N, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    got = vtrace(**rollout, log_rhos=log_rhos, gamma=gamma, rho_bar=rho_bar, c_bar=c_bar, trace_lambda=trace_lambda)
    rho = log_rhos.exp()

    def target(t: int, n: int) -> float:
        total, product = float(rollout["values"][t, n]), 1.0
        for s in range(t, T):
            live = 0.0 if rollout["terminated"][s, n] else 1.0
            delta = rollout["reward"][s, n] + gamma * live * rollout["next_values"][s, n] - rollout["values"][s, n]
            total += gamma ** (s - t) * product * min(rho_bar, float(rho[s, n])) * float(delta)
            product *= trace_lambda * min(c_bar, float(rho[s, n]))
            if rollout["terminated"][s, n] or rollout["truncated"][s, n]:
                break
        return total

    for n in range(N):
        for t in range(T):
            assert float(got.targets[t, n]) == pytest.approx(target(t, n), abs=1e-12)
            done = bool(rollout["terminated"][t, n] or rollout["truncated"][t, n])
            following = float(rollout["next_values"][t, n]) if done or t == T - 1 else target(t + 1, n)
            live = 0.0 if rollout["terminated"][t, n] else 1.0
            error = float(rollout["reward"][t, n]) + gamma * live * following - float(rollout["values"][t, n])
            assert float(got.advantages[t, n]) == pytest.approx(min(rho_bar, float(rho[t, n])) * error, abs=1e-12)


def test_vtrace_on_policy_is_the_bootstrapped_return(rollout: dict[str, Tensor]) -> None:
    consistent = dict(rollout)
    going = ~(rollout["terminated"] | rollout["truncated"])[:-1]
    consistent["next_values"] = rollout["next_values"].clone()
    consistent["next_values"][:-1][going] = rollout["values"][1:][going]
    got = vtrace(**consistent, log_rhos=torch.zeros(T, N, dtype=torch.float64), gamma=0.9)
    returns = discounted_returns(
        rollout["reward"], rollout["terminated"], rollout["truncated"], consistent["next_values"], 0.9
    )
    torch.testing.assert_close(got.targets, returns)


# What torchrl 0.14.1 gives for these numbers, by functions of torchrl.objectives.value.functional:
# generalized_advantage_estimate(0.9, 0.8, ...), vtrace_advantage_estimate(0.9, log_pi, log_mu, ...) (thresholds 1),
# reward2go(reward, done, 0.9), and td_lambda_return_estimate(0.9, 1.0, ...), which bootstraps where it is cut.
_REWARD = [1.0, -0.5, 2.0, 0.3, -1.2, 0.7]
_VALUES = [0.2, 0.9, -0.4, 1.1, 0.5, -0.3]
_NEXT_VALUES = [0.9, -0.4, 0.6, 0.5, -0.3, 0.8]
_TERMINATED = [False, False, False, False, True, False]
_TRUNCATED = [False, False, True, False, False, False]
_LOG_PI = [-0.3, -1.2, -0.7, -0.2, -2.0, -0.9]
_LOG_MU = [-0.6, -0.8, -0.7, -1.1, -0.5, -1.4]
_REWARD_TO_GO = [2.170000, 1.300000, 2.000000, -0.780000, -1.200000, 0.700000]
_BOOTSTRAPPED = [2.607400, 1.786000, 2.540000, -0.780000, -1.200000, 1.420000]
_GAE = [1.866896, 0.356800, 2.940000, -1.574000, -1.700000, 1.720000]
_VTRACE_TARGETS = [2.344513, 1.493904, 2.540000, 0.408611, 0.120679, 1.420000]
_VTRACE_ADVANTAGES = [2.144513, 0.593904, 2.940000, -0.691389, -0.379321, 1.720000]


def test_returns_gae_and_vtrace_agree_with_torchrl() -> None:
    def column(numbers: list[float] | list[bool]) -> Tensor:
        return torch.tensor(numbers)[:, None]

    reward, _, next_values, terminated, truncated = (
        column(x) for x in (_REWARD, _VALUES, _NEXT_VALUES, _TERMINATED, _TRUNCATED)
    )
    for held, expected in ((0.0 * next_values, _REWARD_TO_GO), (next_values, _BOOTSTRAPPED)):
        got_returns = discounted_returns(reward, terminated, truncated, held, 0.9)
        torch.testing.assert_close(got_returns, column(expected), atol=2e-6, rtol=0)
    arguments = [column(x) for x in (_REWARD, _VALUES, _NEXT_VALUES, _TERMINATED, _TRUNCATED)]
    torch.testing.assert_close(gae(*arguments, 0.9, 0.8), column(_GAE), atol=2e-6, rtol=0)
    got = vtrace(*arguments, log_rhos=column(_LOG_PI) - column(_LOG_MU), gamma=0.9)
    torch.testing.assert_close(got.targets, column(_VTRACE_TARGETS), atol=2e-6, rtol=0)
    torch.testing.assert_close(got.advantages, column(_VTRACE_ADVANTAGES), atol=2e-6, rtol=0)


def test_td_target_is_the_reward_alone_where_the_discount_is_zero() -> None:
    got = td_target(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.81]), torch.tensor([5.0, 5.0]))
    torch.testing.assert_close(got, torch.tensor([1.0, 5.05]))
