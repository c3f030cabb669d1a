"""Output distributions of autoregressive image models: K-way categorical, and mixtures of discretized logistics.

A head turns a pixel's features, which know the pixels before it, into the distribution of its channels one after the
other: channel c is conditioned on the pixel's channels before c here, in the head, so that the backbone runs once a
pixel and no feature map has to be shared out among channels.

Images are in [0, 1] on `levels` values. B batch, C channels, F features, D hidden units, H height, W width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generative.autoregressive.logistic_mixture import (
    coupled_means,
    discretized_logistic_quantile,
    pixel_mixture_log_prob,
)

MIN_LOG_SCALE = -7.0
"""of a logistic on an image in [-1, 1], as in PixelCNN++"""
LOG_2 = math.log(2)


class Head(nn.Module):
    """The base of output distributions; `log_prob` and `draw` take what `prepare` returns of the features."""

    num_noise: int
    """uniform numbers behind one pixel"""

    def prepare(self, features: Tensor) -> Tensor:
        """The part of the distribution that depends on the features (B, F, H, W) alone: (B, ., H, W)."""
        raise NotImplementedError

    def log_prob(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Log-likelihood in nats (B, H, W) of each pixel of `x` (B, C, H, W)."""
        raise NotImplementedError

    def draw(self, hidden: Tensor, x: Tensor, noise: Tensor, temperature: float) -> Tensor:
        """Pixels (B, C, H, W) as a function of `noise` (B, num_noise, H, W); channel c looks at x[:, :c] alone."""
        raise NotImplementedError


class CategoricalHead(Head):
    """Any distribution over the levels, by a layer of hidden units a channel (binary data: one logit)."""

    def __init__(self, num_features: int, channels: int, levels: int, hidden: int) -> None:
        super().__init__()
        self.channels, self.levels, self.num_noise = channels, levels, channels
        self.hidden = nn.Conv2d(num_features, channels * hidden, 1)
        self.out = nn.Conv2d(channels * hidden, channels * (levels - 1), 1, groups=channels)
        self.couple = nn.ModuleList(nn.Conv2d(c, hidden, 1, bias=False) for c in range(1, channels))

    def prepare(self, features: Tensor) -> Tensor:
        out: Tensor = self.hidden(F.relu(features))
        return out

    def logits(self, hidden: Tensor, x: Tensor) -> Tensor:
        """(B, C, levels, H, W); the first level's logit is 0."""
        if self.channels > 1:
            first, *others = hidden.chunk(self.channels, 1)
            coupled = [h + couple(x[:, : c + 1]) for c, (h, couple) in enumerate(zip(others, self.couple, strict=True))]
            hidden = torch.cat([first, *coupled], 1)
        logits = self.out(F.relu(hidden)).unflatten(1, (self.channels, self.levels - 1))
        return F.pad(logits, (0, 0, 0, 0, 1, 0))

    def log_prob(self, hidden: Tensor, x: Tensor) -> Tensor:
        target = (x * (self.levels - 1)).round().long()
        return -F.cross_entropy(self.logits(hidden, x).transpose(1, 2), target, reduction="none").sum(1)

    def draw(self, hidden: Tensor, x: Tensor, noise: Tensor, temperature: float) -> Tensor:
        logits = self.logits(hidden, x)
        if temperature == 0:
            level = logits.argmax(2)
        else:
            cumulative = torch.softmax(logits / temperature, 2).cumsum(2)[:, :, :-1]
            level = (cumulative < noise[:, :, None]).sum(2)
        return level.to(x.dtype) / (self.levels - 1)


class LogisticMixtureHead(Head):
    """A mixture of discretized logistics whose component is shared by a pixel's channels (PixelCNN++)."""

    def __init__(self, num_features: int, channels: int, levels: int, num_components: int) -> None:
        super().__init__()
        self.channels, self.levels, self.num_components = channels, levels, num_components
        self.num_noise = 1 + channels
        self.num_couplings = channels * (channels - 1) // 2
        self.out = nn.Conv2d(num_features, num_components * (1 + 2 * channels + self.num_couplings), 1)

    def prepare(self, features: Tensor) -> Tensor:
        out: Tensor = self.out(F.elu(features))
        return out

    def parameters_of(self, hidden: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, M, H, W), means and log-scales (B, C, M, H, W), conditioned on the channels of `x` before each."""
        table = hidden.unflatten(1, (-1, self.num_components))  # (B, rows, M, H, W)
        logits, means, log_scales, coupling = table.split([1, self.channels, self.channels, self.num_couplings], 1)
        means = coupled_means(2 * x - 1, means, torch.tanh(coupling))
        return logits[:, 0], (means + 1) / 2, log_scales.clamp(min=MIN_LOG_SCALE) - LOG_2

    def log_prob(self, hidden: Tensor, x: Tensor) -> Tensor:
        return pixel_mixture_log_prob(*self.parameters_of(hidden, x), x, self.levels)

    def draw(self, hidden: Tensor, x: Tensor, noise: Tensor, temperature: float) -> Tensor:
        logits, means, log_scales = self.parameters_of(hidden, x)
        if temperature == 0:
            component, noise = logits.argmax(1), torch.full_like(noise, 0.5)
        else:
            cumulative = torch.softmax(logits / temperature, 1).cumsum(1)[:, :-1]
            component = (cumulative < noise[:, :1]).sum(1)  # (B, H, W)
            log_scales = log_scales + math.log(temperature)
        index = component[:, None, None].expand(-1, self.channels, 1, -1, -1)
        mean, log_scale = means.gather(2, index)[:, :, 0], log_scales.gather(2, index)[:, :, 0]
        return discretized_logistic_quantile(mean, log_scale, noise[:, 1:], self.levels)
