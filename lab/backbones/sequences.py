"""Networks that read a whole sequence at once and give features of each step: bidirectional ones, and transformers.

B sequences, T steps, D numbers of a step, F features, A heads.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones.layers import Share
from lab.backbones.registry import register


class SequenceNet(nn.Module):
    """Sequences (B, T, D) to features of each step (B, T, F)."""

    def summary(self, features: Tensor) -> Tensor:
        """The vector (B, F) of a whole sequence, from the features of its steps."""
        return features[:, -1]


class Bidirectional(SequenceNet):
    """Two cores that read from the beginning and from the end (Schuster and Paliwal 1997), side by side."""

    def __init__(self, core: nn.RNN | nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.core = core

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.core(x)[0]
        return features

    def summary(self, features: Tensor) -> Tensor:
        """What each of the two has made of the whole sequence: the last step's of the one, the first's of the other."""
        forward, backward = features.chunk(2, -1)
        return torch.cat([forward[:, -1], backward[:, 0]], -1)


class Attention(nn.Module):
    """Causal self-attention with several heads (Vaswani et al. 2017): a step sees itself and those before it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, A, T, F / A) each
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class TransformerBlock(nn.Module):
    """Attention and a perceptron of four times the width, each normalised before and added (Radford et al. 2019)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        out: Tensor = x + self.dropout(self.perceptron(self.norm2(x)))
        return out


class Transformer(SequenceNet):
    """Steps embedded by a linear layer and a learned position, through causal blocks."""

    def __init__(self, num_steps: int, step: int, width: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Linear(step, width)
        self.position = nn.Parameter(0.02 * torch.randn(num_steps, width))  # (T, F)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.blocks(self.embedding(x) + self.position[: x.shape[1]]))
        return out


@register("bidirectional", example_shape=(5, 8), sequential=True)
def bidirectional(
    input_shape: tuple[int, ...],
    *,
    cell: Literal["rnn", "lstm", "gru"] = "lstm",
    hidden: int = 64,
    num_layers: int = 1,
    dropout: Share = 0.0,
) -> nn.Module:
    """An RNN, LSTM or GRU in each direction (Schuster and Paliwal 1997; Graves and Schmidhuber 2005)."""
    _, step = _sequence(input_shape)
    kind = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell]
    return Bidirectional(kind(step, hidden, num_layers, batch_first=True, dropout=dropout, bidirectional=True))


@register("transformer", example_shape=(5, 8), sequential=True)
def transformer(
    input_shape: tuple[int, ...], *, width: int = 128, depth: int = 2, heads: int = 4, dropout: Share = 0.0
) -> nn.Module:
    """Causal transformer (Vaswani et al. 2017; Radford et al. 2019), the yardstick of recurrent networks."""
    num_steps, step = _sequence(input_shape)
    if width % heads:
        raise ValueError(f"width={width} is no multiple of heads={heads}")
    return Transformer(num_steps, step, width, depth, heads, dropout)


def _sequence(input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Steps and numbers of a step. Raises ValueError for what is no sequence."""
    if len(input_shape) != 2:
        raise ValueError("it needs a sequence (steps, numbers of a step)")
    return input_shape[0], input_shape[1]
