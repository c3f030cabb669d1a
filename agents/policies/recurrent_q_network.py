"""Recurrent Q-networks, which may see their last action, and the policy that acts by one.

L steps of a sequence, B sequences, N environments, A actions, D inputs, F features, S rows of a recurrent state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents.policies.encoder import Encoder
from agents.policies.exploration import EpsilonGreedyPolicy, epsilon_greedy
from agents.policies.normalization import ObsNormalizer
from agents.policies.policy import Action, Preferences
from agents.policies.q_network import QHead
from agents.types import Obs, Rollout, map_obs
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec, TensorSpec

_OBSERVATION, _PREVIOUS = "observation", "previous action"
"""names of the network's inputs"""


class RecurrentQNetwork(nn.Module):
    """Q-values (L, B, A) of sequences; with `previous_action` the action before each observation is an input too."""

    def __init__(
        self,
        backbone: BackboneConfig,
        spec: DataSpec,
        num_actions: int,
        *,
        hidden: tuple[int, ...],
        previous_action: bool,
        normalize_obs: bool,
        initial_value: float = 0.0,
    ) -> None:
        super().__init__()
        inputs = spec.inputs
        if previous_action:
            inputs = inputs if isinstance(inputs, dict) else {_OBSERVATION: inputs}
            inputs = inputs | {_PREVIOUS: TensorSpec((), torch.int64, 0, num_actions)}  # 0 is none
        self.previous_action = previous_action
        self.encoder = Encoder(backbone, inputs)
        self.normalizer = ObsNormalizer(self.encoder.backbone.input_shape) if normalize_obs else None
        self.head = QHead([self.encoder.num_features, *hidden, num_actions], None)
        self.head.shift(initial_value)

    def forward(self, x: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Prepared x (L, B, D), state (S, B, F) before them, episode starts (L, B) -> Q (L, B, A), state after."""
        features, state = self.encoder.backbone(x, state, start)
        return self.head(features, None), state

    def prepare(self, obs: Obs, previous: Tensor) -> Tensor:
        """Observations (L, B, ...) and 1 + the actions before them (L, B), 0 for none, as the one tensor (L, B, D)."""
        x = self._inputs(obs, previous)
        return x.float() if self.normalizer is None else self.normalizer(x)

    def update_normalizer(self, rollout: Rollout) -> None:
        """Take a rollout's observations into the running moments, if there are any."""
        if self.normalizer is not None:
            previous = previous_actions(rollout.action, rollout.start)[:-1]
            self.normalizer.update(self._inputs(rollout.obs, previous)[rollout.valid])

    def _inputs(self, obs: Obs, previous: Tensor) -> Tensor:
        if self.previous_action:
            obs = {**(obs if isinstance(obs, dict) else {_OBSERVATION: obs}), _PREVIOUS: previous}
        return self.encoder.prepare(obs, leading=2).flatten(2)


def previous_actions(action: Tensor, start: Tensor) -> Tensor:
    """1 + the actions (L + 1, B) before each step and after the last; 0 where an episode starts or it is not known."""
    previous = torch.cat([torch.zeros_like(action[:1]), action + 1])
    previous[:-1].masked_fill_(start, 0)
    return previous


class RecurrentQPolicy(EpsilonGreedyPolicy):
    """Epsilon-greedy in Q with a memory: the backbone's state, and a last row with 1 + the last action."""

    recurrent = True

    def __init__(self, q_network: RecurrentQNetwork, num_actions: int, hold: int = 1) -> None:
        super().__init__(hold)
        self.q_network, self.num_actions = q_network, num_actions

    def initial_state(self, num_envs: int) -> Tensor:
        state = self.q_network.encoder.backbone.initial_state(num_envs)
        return torch.cat([state, torch.zeros_like(state[:1])])

    def act(self, obs: Obs, state: Tensor | None = None, noise: Tensor | None = None) -> Action:
        q_values, state = self._q_values(obs, state)
        action = q_values.argmax(-1)
        if noise is not None:
            action = epsilon_greedy(action, self.epsilon, self.num_actions, noise)
        row = (action + 1).to(state.dtype)[None, :, None].expand_as(state[:1])
        return Action(action, torch.cat([state, row]), {})

    def preferences(self, obs: Obs, state: Tensor | None = None) -> Preferences:
        return Preferences("Q-value", self._q_values(obs, state)[0])

    def _q_values(self, obs: Obs, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Q (N, A) and the backbone's state after."""
        assert state is not None
        start = torch.zeros(1, state.shape[1], dtype=torch.bool, device=state.device)
        x = self.q_network.prepare(map_obs(obs, lambda t: t[None]), state[-1:, :, 0].long())
        q_values, state = self.q_network(x, state[:-1], start)
        return q_values[0], state
