"""Q-networks: a registered backbone and a head of one or two streams, plain or noisy.

B batch, A actions, M numbers for each action's return, F features.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.policies.numpy_mlp import ArrayMLP, array_mlp
from agents.policies.policy import Encoder
from agents.types import Obs
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec, TensorSpec


class NoisyLinear(nn.Module):
    """A linear layer with learned factorised Gaussian noise (Fortunato et al. 2018, equations 10 and 11).

        y = (mu + sigma * f(e_out) f(e_in)^T) x + mu_b + sigma_b * f(e_out),   f(e) = sgn(e) sqrt(|e|)

    The noise is handed in, so that the layer is a function; each row of a batch may have its own.
    """

    def __init__(self, num_in: int, num_out: int, sigma: float) -> None:
        super().__init__()
        self.num_in, self.num_noise = num_in, num_in + num_out
        bound = 1 / math.sqrt(num_in)
        self.mean_weight = nn.Parameter(torch.empty(num_out, num_in).uniform_(-bound, bound))
        self.mean_bias = nn.Parameter(torch.empty(num_out).uniform_(-bound, bound))
        self.sigma_weight = nn.Parameter(torch.full((num_out, num_in), sigma * bound))
        self.sigma_bias = nn.Parameter(torch.full((num_out,), sigma * bound))

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """x (B, in); noise (B or 1, in + out) standard normal, or None for the mean weights."""
        y = F.linear(x, self.mean_weight, self.mean_bias)
        if noise is None:
            return y
        scaled = noise.sign() * noise.abs().sqrt()
        noise_in, noise_out = scaled[:, : self.num_in], scaled[:, self.num_in :]
        return y + noise_out * F.linear(x * noise_in, self.sigma_weight, self.sigma_bias)


class Stream(nn.Module):
    """Linear layers with ReLU between them; all plain, or all noisy."""

    def __init__(self, sizes: list[int], sigma: float | None) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(sizes))
        self.noisy = sigma is not None
        self.layers = nn.ModuleList(nn.Linear(a, b) if sigma is None else NoisyLinear(a, b, sigma) for a, b in pairs)
        self.num_noise = 0 if sigma is None else sum(a + b for a, b in pairs)

    @torch.no_grad()
    def shift(self, amount: float) -> None:
        """Add a constant to all outputs, by the last layer's bias."""
        last = self.layers[-1]
        bias = last.mean_bias if isinstance(last, NoisyLinear) else last.bias
        assert isinstance(bias, nn.Parameter)
        bias.add_(amount)

    def modules_in_a_row(self) -> list[nn.Module]:
        """The layers with what stands between them."""
        return [module for layer in self.layers for module in (layer, nn.ReLU())][:-1]

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """x (B, F); noise (B or 1, num_noise) or None."""
        used = 0
        for i, layer in enumerate(self.layers):
            x = x if i == 0 else F.relu(x)
            if isinstance(layer, NoisyLinear):
                part = None if noise is None else noise[:, used : used + layer.num_noise]
                used += layer.num_noise
                x = layer(x, part)
            else:
                x = layer(x)
        return x


class QNetwork(nn.Module):
    """Outputs (B, A, M) of observations: backbone, then one stream, or with `dueling` a value and an advantage stream.

    Dueling (Wang et al. 2016, equation 9): Q = V + A - mean over actions of A.
    """

    def __init__(
        self,
        backbone: BackboneConfig,
        spec: DataSpec,
        num_actions: int,
        size: int,
        *,
        dueling: bool,
        hidden: tuple[int, ...],
        sigma: float | None,
        initial_value: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_actions, self.size = num_actions, size
        self.encoder = Encoder(backbone, spec.inputs)
        features = [self.encoder.num_features, *hidden]
        self.advantage = Stream([*features, num_actions * size], sigma)
        self.value = Stream([*features, size], sigma) if dueling else None
        (self.value or self.advantage).shift(initial_value)
        self.num_noise = self.advantage.num_noise + (self.value.num_noise if self.value else 0)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Outputs (B, A, M) of prepared observations; noise (B or 1, num_noise) standard normal."""
        return self.head(self.encoder.backbone(x).flatten(1), noise)

    def head(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        """Outputs (B, A, M) of features (B, F)."""
        split = self.advantage.num_noise
        advantage = self.advantage(features, noise if noise is None else noise[:, :split])
        outputs: Tensor = advantage.view(-1, self.num_actions, self.size)
        if self.value is None:
            return outputs
        value = self.value(features, noise if noise is None else noise[:, split:]).view(-1, 1, self.size)
        return value + outputs - outputs.mean(1, keepdim=True)

    def in_arrays(self, num_rows: int) -> ArrayMLP | None:
        """Advantages (N, A M) of vectors (N, D) in numpy; None where this is no small perceptron, or a noisy one."""
        inputs, backbone = self.encoder.inputs, self.encoder.backbone.net
        plain = isinstance(inputs, TensorSpec) and inputs.dtype == torch.float32 and len(inputs.shape) == 1
        if not plain or not isinstance(backbone, nn.Sequential):
            return None
        return array_mlp([*backbone, *self.advantage.modules_in_a_row()], num_rows)

    def prepare(self, obs: Obs, leading: int = 1) -> Tensor:
        """The one tensor that the backbone takes, for observations (B, ...)."""
        return self.encoder.prepare(obs, leading)


@torch.no_grad()
def move_target(target: nn.Module, online: nn.Module, num_updates: int, *, period: int, tau: float) -> None:
    """Let a target network follow the online one after the `num_updates`-th update: by tau, or if 0 once a period."""
    if tau > 0:
        torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)
    elif num_updates % period == 0:
        target.load_state_dict(online.state_dict())
