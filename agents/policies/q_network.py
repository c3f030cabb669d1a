"""Q-networks (a registered backbone and one or two heads, plain or noisy), and the policy that acts by one.

B batch, A actions, M numbers for each action's return, F features; T time steps, N environments.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.policies.encoder import Encoder
from agents.policies.exploration import EpsilonGreedyActor, EpsilonGreedyPolicy, epsilon_greedy
from agents.policies.numpy_mlp import Actor, ArrayMLP, array_mlp
from agents.policies.policy import Action, Preferences
from agents.policies.return_distributions import Returns
from agents.types import Obs
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec, TensorSpec
from lab.engine.torch_private import foreach_lerp_


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


class QHead(nn.Module):
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

    def modules_in_order(self) -> list[nn.Module]:
        """The layers and the ReLUs between them."""
        return [module for layer in self.layers for module in (layer, nn.ReLU())][:-1]

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """x (B, F); noise (B or 1, num_noise) or None."""
        first = 0
        for i, layer in enumerate(self.layers):
            x = x if i == 0 else F.relu(x)
            if isinstance(layer, NoisyLinear):
                part = None if noise is None else noise[:, first : first + layer.num_noise]
                first += layer.num_noise
                x = layer(x, part)
            else:
                x = layer(x)
        return x


class QNetwork(nn.Module):
    """Outputs (B, A, M) of observations: backbone, then one head, or with `dueling` a value and an advantage head.

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
        self.advantage = QHead([*features, num_actions * size], sigma)
        self.value = QHead([*features, size], sigma) if dueling else None
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

    def numpy_mlp(self, num_rows: int) -> ArrayMLP | None:
        """Advantages (N, A M) of vectors (N, D) in numpy; None of a network that is noisy, or no small perceptron."""
        inputs, backbone = self.encoder.inputs, self.encoder.backbone.net
        plain = isinstance(inputs, TensorSpec) and inputs.dtype.is_floating_point and len(inputs.shape) == 1
        if not plain or not isinstance(backbone, nn.Sequential):
            return None
        return array_mlp([*backbone, *self.advantage.modules_in_order()], num_rows)

    def prepare(self, obs: Obs, leading: int = 1) -> Tensor:
        """The one tensor that the backbone takes, for observations (B, ...)."""
        return self.encoder.prepare(obs, leading).float()


class QPolicy(EpsilonGreedyPolicy):
    """Greedy in the expected return, or with probability epsilon a uniform action; noisy layers add their noise."""

    def __init__(self, q_network: QNetwork, returns: Returns, hold: int = 1) -> None:
        super().__init__(hold)
        self.q_network, self.returns = q_network, returns
        self._numpy_mlp: ArrayMLP | None = None

    def draw_noise(self, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """(T, N, 2 + num_noise): two uniform numbers for exploration, then standard normal ones for noisy layers."""
        uniform = super().draw_noise(num_steps, num_envs, generator)
        if not self.q_network.num_noise:
            return uniform
        return torch.cat([uniform, torch.randn(num_steps, num_envs, self.q_network.num_noise, generator=generator)], -1)

    def act(self, obs: Obs, state: Tensor | None = None, noise: Tensor | None = None) -> Action:
        if noise is not None and bool((noise[:, 0] < self.epsilon).all()):  # all explore: no values are needed
            return Action((noise[:, 1] * self.q_network.num_actions).long(), None, {})
        outputs = self.q_network(self.q_network.prepare(obs), None if noise is None else noise[:, 2:])
        greedy = self.returns.mean(outputs).argmax(-1)
        if noise is None:
            return Action(greedy, None, {})
        return Action(epsilon_greedy(greedy, self.epsilon, self.q_network.num_actions, noise), None, {})

    def array_actor(self, noise: Tensor) -> Actor | None:
        """In numpy where each return is one number: advantages order actions as values do."""
        network, num_envs = self._numpy_mlp, noise.shape[1]
        if network is None or network.num_rows != num_envs or not network.shares_memory():
            network = self._numpy_mlp = self.q_network.numpy_mlp(num_envs) if self.returns.size == 1 else None
        if network is None:
            return None
        return EpsilonGreedyActor(network, float(self.epsilon), self.q_network.num_actions, noise)

    def preferences(self, obs: Obs, state: Tensor | None = None) -> Preferences:
        return Preferences("Q-value", self.returns.mean(self.q_network(self.q_network.prepare(obs))))


@torch.no_grad()
def move_target(target: nn.Module, online: nn.Module, num_updates: int, *, period: int, tau: float) -> None:
    """Move a target network after the `num_updates`-th update: by the share tau, or if tau is 0 at once each period."""
    if tau > 0:
        foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)
    elif num_updates % period == 0:
        target.load_state_dict(online.state_dict())
