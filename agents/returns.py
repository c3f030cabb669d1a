"""Returns, advantages and targets: pure functions on time-major tensors.

T time steps, N environments. `terminated` cuts the bootstrap and `truncated` does not; both end the recursion.
`next_values` are the values of the true next observations, so that truncation is no special case.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

TD_LOSSES = {"huber": F.smooth_l1_loss, "mse": F.mse_loss}
"""of TD errors; Huber's seeks the median where errors exceed 1, the square the mean"""


def discounted_returns(
    reward: Tensor, terminated: Tensor, truncated: Tensor, next_values: Tensor, gamma: float
) -> Tensor:
    """Reward-to-go G_t = r_t + gamma * (G_{t+1} | V(s_{t+1}) at a cut or the end | 0 at a terminal state).

    Args:
        reward, terminated, truncated, next_values: (T, N).
        gamma: discount in [0, 1].

    Returns:
        (T, N). With `next_values` zero this is the plain Monte Carlo return.
    """
    done = terminated | truncated
    at_end = gamma * next_values * (~terminated)
    done[-1] = True  # the rollout's end is a cut
    keep = gamma * (~done).to(reward.dtype)
    return backward_recursion(torch.where(done, reward + at_end, reward), keep)


def gae(
    reward: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16), (T, N) -> (T, N).

    delta_t = r_t + gamma V(s_{t+1}) (1 - terminated_t) - V(s_t);  A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}.
    """
    delta = reward + gamma * next_values * (~terminated) - values
    keep = (gamma * gae_lambda) * (~(terminated | truncated)).to(reward.dtype)
    return backward_recursion(delta, keep)


class VTrace(NamedTuple):
    """V-trace value targets and policy-gradient advantages, both (T, N)."""

    targets: Tensor
    advantages: Tensor


def vtrace(
    reward: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    log_rhos: Tensor,
    gamma: float,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    trace_lambda: float = 1.0,
) -> VTrace:
    """V-trace (Espeholt et al. 2018, eq. 1 and section 4.2), (T, N) -> (T, N).

    `log_rhos` are log pi(a|s) - log mu(a|s). With pi = mu, lambda and both bars 1, the targets are n-step returns.
    """
    rhos = log_rhos.exp()
    clipped_rhos = rhos.clamp(max=rho_bar)
    cs = trace_lambda * rhos.clamp(max=c_bar)
    done = terminated | truncated
    not_terminated = (~terminated).to(reward.dtype)
    delta = clipped_rhos * (reward + gamma * next_values * not_terminated - values)
    keep = gamma * cs * (~done).to(reward.dtype)
    correction = backward_recursion(delta, keep)  # v_t - V(s_t)
    targets = values + correction
    next_targets = torch.cat([targets[1:], next_values[-1:]])
    next_targets = torch.where(done, next_values, next_targets)
    advantages = clipped_rhos * (reward + gamma * next_targets * not_terminated - values)
    return VTrace(targets, advantages)


class NStep(NamedTuple):
    """n-step returns (T, N): the discounted sum of rewards, the discount of the value after it, and steps - 1."""

    returns: Tensor
    discount: Tensor
    steps: Tensor


def n_step_returns(reward: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, n: int) -> NStep:
    """R_t = sum_{k<m} gamma^k r_{t+k}, where the window of m <= n steps ends early with its episode.

    Args:
        reward, terminated, truncated: (T + n - 1, N).

    Returns:
        (T, N) each. The discount is gamma^m, or 0 where the window ends in a terminal state; `steps` is m - 1, the rows
        from the window's first to its last, whose next observation is the one to bootstrap from.
    """
    num_steps = reward.shape[0] - n + 1
    returns = reward[:num_steps].clone()
    discount = gamma * (~terminated[:num_steps]).to(reward.dtype)
    steps = torch.zeros_like(returns, dtype=torch.int32)
    going = ~(terminated[:num_steps] | truncated[:num_steps])
    for k in range(1, n):
        window = slice(k, k + num_steps)
        returns += going * gamma**k * reward[window]
        steps += going
        discount = torch.where(going, gamma ** (k + 1) * (~terminated[window]).to(reward.dtype), discount)
        going = going & ~(terminated[window] | truncated[window])
    return NStep(returns, discount, steps)


def cut_before_starts(terminated: Tensor, truncated: Tensor, start: Tensor, valid: Tensor) -> Tensor:
    """`truncated` (T, N), and where the next row starts an episode though this one did not end: there a run was resumed
    whose environments do not give their state."""
    cut = truncated.clone()
    cut[:-1] |= start[1:] & valid[:-1] & ~terminated[:-1]
    return cut


def td_target(reward: Tensor, discount: Tensor, next_values: Tensor) -> Tensor:
    """y = r + discount * V(s'), where discount is gamma^n, or 0 after a terminal state; any shape."""
    return torch.addcmul(reward, discount, next_values)


def backward_recursion(x: Tensor, keep: Tensor) -> Tensor:
    """y_t = x_t + keep_t * y_{t+1}, over the first dimension, (T, N) -> (T, N).

    By doubling: after i passes y_t is the sum over the 2^i rows from t on, and k_t the product of `keep` over them. A
    few operations on whole tensors take the place of T small ones.
    """
    y, k, span = x, keep[:-1], 1
    while span < len(x):
        y = torch.cat([torch.addcmul(y[:-span], k, y[span:]), y[-span:]])
        k = k[:-span] * k[span:]
        span *= 2
    return y
