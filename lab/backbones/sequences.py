"""Networks that read a whole sequence at once and give features of each step: bidirectional ones, and transformers.

B sequences, T steps, D numbers of a step, F features, A heads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones.layers import Share
from lab.backbones.registry import register


class SequenceNet(nn.Module):
    """Sequences (B, T, D) to features of each step (B, T, F).

    Where sequences have `lengths` (B,), from 1 to T, what is behind their ends changes nothing before them.
    """

    @abstractmethod
    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor: ...

    def summary(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The vector (B, F) of a whole sequence, from the features of its steps."""
        return last_steps(features, lengths)


def last_steps(features: Tensor, lengths: Tensor | None) -> Tensor:
    """The features (B, F) of each sequence's last step, of those of all steps (B, T, F)."""
    if lengths is None:
        return features[:, -1]
    return features.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, features.shape[2]))[:, 0]


class Bidirectional(SequenceNet):
    """Layers of two cores each, which read from the beginning and from the end, side by side (Schuster and Paliwal
    1997)."""

    def __init__(
        self, kind: type[nn.RNN | nn.LSTM | nn.GRU], step: int, hidden: int, num_layers: int, dropout: float
    ) -> None:
        super().__init__()
        sizes = [step, *(2 * hidden,) * (num_layers - 1)]
        self.forwards, self.backwards = (
            nn.ModuleList(kind(size, hidden, batch_first=True) for size in sizes) for _ in range(2)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        for number, (forward, backward) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            if number:
                x = self.dropout(x)
            x = torch.cat([forward(x)[0], turned(backward(turned(x, lengths))[0], lengths)], -1)
        return x

    def summary(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What each of the two has made of the whole sequence: the last step's of the one, the first's of the other."""
        forward, backward = features.chunk(2, -1)
        return torch.cat([last_steps(forward, lengths), backward[:, 0]], -1)


def turned(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Sequences (B, T, D) from their ends to their beginnings; what is behind the end stays there."""
    if lengths is None:
        return x.flip(1)
    steps, ends = torch.arange(x.shape[1], device=x.device), lengths[:, None]
    places = torch.where(steps < ends, ends - 1 - steps, steps)  # (B, T)
    return x.gather(1, places[..., None].expand_as(x))


class TextConvolution(SequenceNet):
    """Convolutions over several widths of neighbouring steps, and of each channel the largest value (Kim 2014)."""

    def __init__(self, step: int, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(step, channels, width, padding="same") for width in widths)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is not None:
            x = x * (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None]
        return torch.cat([F.relu(layer(x.transpose(1, 2))) for layer in self.convolutions], 1).transpose(1, 2)

    def summary(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is not None:
            features = features * (torch.arange(features.shape[1], device=lengths.device) < lengths[:, None])[..., None]
        return features.amax(1)


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

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
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
    kind: type[nn.RNN | nn.LSTM | nn.GRU] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell]
    return Bidirectional(kind, step, hidden, num_layers, dropout)


@register("text_cnn", example_shape=(5, 8), sequential=True)
def text_cnn(input_shape: tuple[int, ...], *, channels: int = 100, widths: tuple[int, ...] = (3, 4, 5)) -> nn.Module:
    """Convolutions over three, four and five words at once, and the maximum over all places (Kim 2014)."""
    _, step = _sequence(input_shape)
    return TextConvolution(step, channels, widths)


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
