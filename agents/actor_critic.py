"""A policy over a registered backbone, with a value head when the baseline is learned.

T time steps, N environments, B batch, A action parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents.policies import Action, Encoder, Gaussian, Policy, distribution_of
from agents.types import Obs
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec


class ActorCritic(Policy):
    """Action parameters and values; `shared` gives both one backbone."""

    def __init__(self, backbone: BackboneConfig, spec: DataSpec, *, shared: bool, value: bool) -> None:
        super().__init__()
        self.distribution = distribution_of(spec)
        self.actor = Encoder(backbone, spec.inputs)
        self.critic = None if shared or not value else Encoder(backbone, spec.inputs)
        num_parameters = self.distribution.num_parameters
        self.log_std: nn.Parameter | None = None
        if isinstance(self.distribution, Gaussian):
            num_parameters //= 2
            self.log_std = nn.Parameter(torch.zeros(num_parameters))
        self.action_head = nn.Linear(self.actor.num_features, num_parameters)
        self.value_head = nn.Linear((self.critic or self.actor).num_features, 1) if value else None
        self._initialise()

    def draw_noise(self, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        return self.distribution.noise((num_steps, num_envs), generator)

    def act(self, obs: Obs, state: Tensor | None = None, noise: Tensor | None = None) -> Action:
        parameters = self.action_parameters(self.actor.backbone(self.actor.prepare(obs)).flatten(1))
        return Action(self.distribution.sample(parameters, noise), state, {})

    def action_parameters(self, features: Tensor) -> Tensor:
        """Parameters (B, A) of the action distribution."""
        parameters: Tensor = self.action_head(features)
        if self.log_std is not None:
            parameters = torch.cat([parameters, self.log_std.expand_as(parameters)], -1)
        return parameters

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Prepared observations (B, ...) -> action parameters (B, A) and values (B,), if there is a value head."""
        features = self.actor.backbone(x).flatten(1)
        parameters = self.action_parameters(features)
        if self.value_head is None:
            return parameters, None
        if self.critic is not None:
            features = self.critic.backbone(x).flatten(1)
        return parameters, self.value_head(features).squeeze(-1)

    def values(self, x: Tensor) -> Tensor:
        """Values (B,) of prepared observations."""
        assert self.value_head is not None
        features = (self.critic or self.actor).backbone(x).flatten(1)
        values: Tensor = self.value_head(features).squeeze(-1)
        return values

    def _initialise(self) -> None:
        """Orthogonal, gain sqrt(2) inside, 0.01 for actions and 1 for values (Andrychowicz et al. 2021; Huang 2022)."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.orthogonal_(layer.weight, 2**0.5)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.orthogonal_(self.action_head.weight, 0.01)
        if self.value_head is not None:
            nn.init.orthogonal_(self.value_head.weight, 1.0)
