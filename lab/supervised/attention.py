"""Attention of a decoder's states over places.

B batch, T steps of the decoder, M places, H numbers of a state, F features.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lab.backbones.features import Places

AttentionKind = Literal["none", "additive", "multiplicative"]


class Attention(nn.Module):
    """States (B, T, H) to contexts (B, T, F), and to the weights (B, T, M) with which they are means of the places."""

    def __init__(self, state: int, features: int) -> None:
        super().__init__()
        self.query = nn.Linear(state, features, bias=False)

    def scores(self, states: Tensor, places: Tensor) -> Tensor:
        """How well each place (B, M, F) fits each state: (B, T, M)."""
        raise NotImplementedError

    def forward(self, states: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        scores = self.scores(states, places.values).masked_fill(~places.mask[:, None], -torch.inf)
        weights = scores.softmax(2)
        return weights @ places.values, weights


class Multiplicative(Attention):
    """scores = (W s) . f (Luong et al. 2015, general)."""

    def scores(self, states: Tensor, places: Tensor) -> Tensor:
        scores: Tensor = self.query(states) @ places.transpose(1, 2)
        return scores


class Additive(Attention):
    """scores = v . tanh(W s + U f) (Bahdanau et al. 2015)."""

    def __init__(self, state: int, features: int) -> None:
        super().__init__(state, features)
        self.key = nn.Linear(features, features)
        self.score = nn.Linear(features, 1, bias=False)

    def scores(self, states: Tensor, places: Tensor) -> Tensor:
        summed = self.query(states)[:, :, None] + self.key(places)[:, None]  # (B, T, M, F)
        scores: Tensor = self.score(summed.tanh())[..., 0]
        return scores


class Mean(Attention):
    """No attention: all places count alike, whatever the state."""

    def __init__(self, state: int, features: int) -> None:
        nn.Module.__init__(self)

    def scores(self, states: Tensor, places: Tensor) -> Tensor:
        return states.new_zeros(*states.shape[:2], places.shape[1])


ATTENTIONS: dict[AttentionKind, type[Attention]] = {
    "none": Mean,
    "additive": Additive,
    "multiplicative": Multiplicative,
}
