"""Action distributions: parameters of a network in, actions, log-probabilities and entropies out.

A action components, K choices. An action is recorded as the distribution drew it (a Gaussian's before clipping or
squashing), since that is what has a well-behaved log-probability; `to_env` gives what the environment takes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lab.data.spec import Continuous, DataSpec, Discrete, MultiDiscrete
from lab.errors import UserError

ContinuousName = Literal["gaussian", "squashed_gaussian"]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class CategoricalActions:
    """One discrete action. Logits (..., K), actions (...)."""

    def __init__(self, spec: Discrete) -> None:
        self.num_parameters = spec.num

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Gumbel noise: argmax(logits + g) is a sample (Maddison et al. 2014)."""
        return torch.empty(*shape, self.num_parameters).exponential_(generator=generator).log_().neg_()

    def sample(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """The most probable action without noise."""
        return logits.argmax(-1) if noise is None else (logits + noise).argmax(-1)

    def log_prob_entropy(self, logits: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both (...), from one log-softmax."""
        log_p = F.log_softmax(logits, -1)
        log_prob = -F.nll_loss(log_p.flatten(0, -2), action.flatten(), reduction="none").view(action.shape)
        return log_prob, -(log_p.exp() * log_p).sum(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """(..., K), adding up to 1."""
        return F.softmax(logits, -1)

    def to_env(self, action: Tensor) -> Tensor:
        """The action itself."""
        return action

    def from_env(self, action: Tensor) -> Tensor:
        """The action itself."""
        return action


class MultiCategoricalActions:
    """Several discrete actions at once. Logits side by side (..., sum K_i), actions (..., A)."""

    def __init__(self, spec: MultiDiscrete) -> None:
        self.nums = list(spec.nums)
        self.parts = [CategoricalActions(Discrete(num)) for num in spec.nums]
        self.num_parameters = sum(spec.nums)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Gumbel noise of all parts."""
        return torch.empty(*shape, self.num_parameters).exponential_(generator=generator).log_().neg_()

    def sample(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """(..., sum K_i) -> (..., A)."""
        noisy = logits if noise is None else logits + noise
        return torch.stack([part.argmax(-1) for part in noisy.split(self.nums, -1)], -1)

    def log_prob_entropy(self, logits: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both (...), summed over components."""
        pieces = [
            part.log_prob_entropy(part_logits, action[..., i])
            for i, (part, part_logits) in enumerate(zip(self.parts, logits.split(self.nums, -1), strict=True))
        ]
        log_probs, entropies = zip(*pieces, strict=True)
        return torch.stack(log_probs, -1).sum(-1), torch.stack(entropies, -1).sum(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """(..., sum K_i), each component's adding up to 1."""
        return torch.cat([F.softmax(part, -1) for part in logits.split(self.nums, -1)], -1)

    def to_env(self, action: Tensor) -> Tensor:
        """The action itself."""
        return action

    def from_env(self, action: Tensor) -> Tensor:
        """The action itself."""
        return action


class DiagonalGaussian:
    """Independent normals: mean and log standard deviation (..., 2A), actions (..., A), clipped for the environment."""

    LOG_STD_BOUNDS = (-20.0, 2.0)

    def __init__(self, spec: Continuous) -> None:
        self.num_components = spec.num
        self.num_parameters = 2 * spec.num
        self.low, self.high = torch.tensor(spec.low), torch.tensor(spec.high)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard normal noise."""
        return torch.randn(*shape, self.num_components, generator=generator)

    def sample(self, parameters: Tensor, noise: Tensor | None) -> Tensor:
        """(..., 2A) -> (..., A); the mean without noise."""
        mean, log_std = self._split(parameters)
        return mean if noise is None else mean + log_std.exp() * noise

    def log_prob_entropy(self, parameters: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both (...), summed over components."""
        mean, log_std = self._split(parameters)
        z = (action - mean) * (-log_std).exp()
        log_prob = -0.5 * z.square() - log_std - _HALF_LOG_2PI
        return log_prob.sum(-1), (log_std + (0.5 + _HALF_LOG_2PI)).sum(-1)

    def to_env(self, action: Tensor) -> Tensor:
        """Clipped to the bounds."""
        return action.clamp(self.low.to(action), self.high.to(action))

    def from_env(self, action: Tensor) -> Tensor:
        """The action itself."""
        return action

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = parameters.chunk(2, -1)
        return mean, log_std.clamp(*self.LOG_STD_BOUNDS)


class SquashedGaussian(DiagonalGaussian):
    """A normal u through tanh onto the bounds: a = centre + half_width tanh(u) (Haarnoja et al. 2018, appendix C).

    The recorded action is u; log-probabilities are those of a. Raises UserError for unbounded actions.
    """

    def __init__(self, spec: Continuous) -> None:
        super().__init__(spec)
        if not bool(torch.isfinite(self.low).all() and torch.isfinite(self.high).all()):
            raise UserError("module.action_distribution='squashed_gaussian' needs an action space with bounds.")
        self.half_width, self.centre = (self.high - self.low) / 2, (self.high + self.low) / 2
        self._log_half_width = float(self.half_width.log().sum())

    def log_prob_entropy(self, parameters: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of a and an estimate of its entropy, both (...).

        The entropy has no closed form: H(a) = H(u) + E[log |da/du|], the expectation by the one sample at hand, whose
        noise is held fixed so that the gradient reaches mean and standard deviation.
        """
        log_prob, entropy = super().log_prob_entropy(parameters, action)
        mean, log_std = self._split(parameters)
        noise = ((action - mean) * (-log_std).exp()).detach()
        return log_prob - self._log_slope(action), entropy + self._log_slope(mean + log_std.exp() * noise)

    def to_env(self, action: Tensor) -> Tensor:
        """u -> a."""
        return self.centre.to(action) + self.half_width.to(action) * action.tanh()

    def from_env(self, action: Tensor) -> Tensor:
        """a -> u; at the bounds themselves u would be infinite, so a is held 0.1 % away from them."""
        share = (action - self.centre.to(action)) / self.half_width.to(action)
        return share.clamp(-0.999, 0.999).atanh()

    def _log_slope(self, u: Tensor) -> Tensor:
        """log |da/du| summed over components; log(1 - tanh(u)^2) without cancellation."""
        return (2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))).sum(-1) + self._log_half_width


ActionDistribution = CategoricalActions | MultiCategoricalActions | DiagonalGaussian


def distribution_of(spec: DataSpec, continuous: ContinuousName = "gaussian") -> ActionDistribution:
    """The distribution over a spec's actions. Raises UserError for data without actions."""
    if isinstance(spec.actions, Discrete):
        return CategoricalActions(spec.actions)
    if isinstance(spec.actions, MultiDiscrete):
        return MultiCategoricalActions(spec.actions)
    if isinstance(spec.actions, Continuous):
        return DiagonalGaussian(spec.actions) if continuous == "gaussian" else SquashedGaussian(spec.actions)
    raise UserError(f"an agent needs an environment's data (data.kind=on_policy or replay), not {spec.actions!r}.")
