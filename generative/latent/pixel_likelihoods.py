"""Likelihoods of pixels, whose parameters a decoder gives: Bernoulli, Gaussian, discretized logistic.

B images, P parameters a pixel (in all channels), C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from generative import likelihoods
from lab.data.spec import TensorSpec
from lab.errors import UserError

Likelihood = Literal["bernoulli", "gaussian", "logistic"]


class PixelLikelihood(nn.Module):
    """p(x | parameters) of images (B, C, H, W) in [0, 1]; parameters (..., B, *parameter_shape)."""

    discrete: ClassVar[bool] = True
    """whether pixels are discrete, so that log_prob has bits per dimension"""

    def __init__(self, image: TensorSpec, num_parameters: int) -> None:
        """`num_parameters`: of each pixel value."""
        super().__init__()
        channels, height, width = image.shape
        self.parameter_shape = (num_parameters * channels, height, width)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log p(x) in nats: (..., B)."""
        raise NotImplementedError

    def mean(self, parameters: Tensor) -> Tensor:
        """The expected image (..., C, H, W), in [0, 1]."""
        raise NotImplementedError


class BernoulliLikelihood(PixelLikelihood):
    """Independent bits; the parameters are logits. Grey pixels count as probabilities of a bit."""

    def __init__(self, image: TensorSpec) -> None:
        super().__init__(image, 1)
        self.discrete = image.levels == 2  # type: ignore[misc]

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        return likelihoods.bernoulli_log_prob(parameters, x)

    def mean(self, parameters: Tensor) -> Tensor:
        return torch.sigmoid(parameters)


class GaussianLikelihood(PixelLikelihood):
    """A density around a mean, with one learned scale a channel (sigma-VAE, Rybkin et al. 2021)."""

    discrete = False

    def __init__(self, image: TensorSpec) -> None:
        super().__init__(image, 1)
        self.log_scale = nn.Parameter(torch.full((image.shape[0], 1, 1), -1.0))

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        log_scale = self.log_scale.clamp(min=-6.0)
        return likelihoods.gaussian_log_prob(torch.sigmoid(parameters), log_scale, x).flatten(-3).sum(-1)

    def mean(self, parameters: Tensor) -> Tensor:
        return torch.sigmoid(parameters)


class LogisticLikelihood(PixelLikelihood):
    """Mass of a logistic in the bin of each grey level, mean and scale a pixel (Kingma et al. 2016)."""

    def __init__(self, image: TensorSpec) -> None:
        super().__init__(image, 2)
        if image.levels < 2:
            raise UserError("module.likelihood='logistic' needs pixels of a known number of levels.")
        self.levels = image.levels

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        mean, raw = parameters.chunk(2, dim=-3)
        log_scale = -1.5 + 6.0 * torch.tanh(raw / 6.0)
        elementwise = likelihoods.discretized_logistic_log_prob(torch.sigmoid(mean), log_scale, x, self.levels)
        return elementwise.flatten(-3).sum(-1)

    def mean(self, parameters: Tensor) -> Tensor:
        return torch.sigmoid(parameters.chunk(2, dim=-3)[0])


_LIKELIHOODS: dict[Likelihood, Callable[[TensorSpec], PixelLikelihood]] = {
    "bernoulli": BernoulliLikelihood,
    "gaussian": GaussianLikelihood,
    "logistic": LogisticLikelihood,
}


def build_likelihood(name: Likelihood, image: TensorSpec) -> PixelLikelihood:
    """The likelihood of a name for images of a spec. Raises UserError when they do not fit."""
    return _LIKELIHOODS[name](image)
