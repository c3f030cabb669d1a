"""Recurrent backbones over vectors (D,), time first. T steps, B sequences, F features, S state rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lab.backbones.registry import BackboneConfig, build_backbone, register

_CELLS: dict[str, Callable[..., Any]] = {
    "LSTM": torch.lstm_cell,
    "GRU": torch.gru_cell,
    "RNN_TANH": torch.rnn_tanh_cell,
    "RNN_RELU": torch.rnn_relu_cell,
}
_WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class Recurrent(nn.Module):
    """An RNN, LSTM or GRU whose state is one tensor (S, B, F) and is cleared where `reset` is true.

    It reads each step as it is, or the features that an encoder, a feed-forward backbone, makes of it.
    """

    def __init__(
        self,
        kind: Callable[..., Any],
        input_shape: tuple[int, ...],
        encoder: BackboneConfig | None,
        hidden: int,
        num_layers: int,
        dropout: float,
        **options: Any,
    ) -> None:
        super().__init__()
        if encoder is not None and encoder.recurrent:
            raise ValueError(f"its encoder {encoder.name!r} reads sequences, too; it needs a feed-forward one")
        self.encoder = None if encoder is None else build_backbone(encoder, input_shape)
        size = math.prod(input_shape) if self.encoder is None else self.encoder.num_features
        core: nn.RNN | nn.LSTM | nn.GRU = kind(
            size, hidden, num_layers, dropout=dropout if num_layers > 1 else 0.0, **options
        )
        self.core = core
        self.is_lstm = isinstance(core, nn.LSTM)
        self.cell = _CELLS[core.mode]
        self.num_rows = core.num_layers * (2 if self.is_lstm else 1)

    def initial_state(self, batch_size: int) -> Tensor:
        weight: Tensor = self.core.weight_hh_l0  # type: ignore[assignment]
        return weight.new_zeros(self.num_rows, batch_size, self.core.hidden_size)

    def forward(self, x: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        if self.encoder is not None:
            x = self.encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        x = x.flatten(2)  # (T, B, D)
        features = []
        for start, end in itertools.pairwise(_cuts(reset)):
            if start == end:
                continue
            keep = (~reset[start]).to(state.dtype)[None, :, None]
            piece, state = self._run(x[start:end], state * keep)
            features.append(piece)
        return torch.cat(features) if len(features) != 1 else features[0], state

    def _run(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if len(x) == 1 and self.core.num_layers == 1:
            return self._step(x[0], state)
        if not self.is_lstm:
            features, state = self.core(x, state)
            return features, state
        hidden, cell = state.chunk(2)
        features, (hidden, cell) = self.core(x, (hidden.contiguous(), cell.contiguous()))
        return features, torch.cat([hidden, cell])

    def _step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step (B, D) of a single layer, without what it costs to begin a run of many."""
        weights: list[Tensor] = [getattr(self.core, name) for name in _WEIGHTS]
        if self.is_lstm:
            hidden, cell = self.cell(x, state.unbind(), *weights)
            return hidden[None], torch.stack([hidden, cell])
        hidden = self.cell(x, state[0], *weights)
        return hidden[None], hidden[None]


def _cuts(reset: Tensor) -> list[int]:
    """Where stretches begin that run in one piece, and the end: at resets (T, B), or at each step where what is reset
    cannot be known (a network that is exported)."""
    num_steps = reset.shape[0]
    if num_steps == 1 or torch.compiler.is_exporting():
        return list(range(num_steps + 1))
    return [0, *(reset.any(dim=1).nonzero().flatten().tolist()), num_steps]


@register("lstm", example_shape=(8,), recurrent=True)
def lstm(
    input_shape: tuple[int, ...],
    *,
    hidden: int = 128,
    num_layers: int = 1,
    dropout: float = 0.0,
    encoder: BackboneConfig | None = None,
) -> nn.Module:
    """Long short-term memory (Hochreiter and Schmidhuber 1997)."""
    return Recurrent(nn.LSTM, input_shape, encoder, hidden, num_layers, dropout)


@register("rnn", example_shape=(8,), recurrent=True)
def rnn(
    input_shape: tuple[int, ...],
    *,
    hidden: int = 128,
    num_layers: int = 1,
    activation: Literal["tanh", "relu"] = "tanh",
    dropout: float = 0.0,
    encoder: BackboneConfig | None = None,
) -> nn.Module:
    """Recurrent network without gates (Elman 1990); of relu, its weights begin as the identity (Le et al. 2015)."""
    net = Recurrent(nn.RNN, input_shape, encoder, hidden, num_layers, dropout, nonlinearity=activation)
    if activation == "relu":
        for layer in range(num_layers):
            nn.init.eye_(getattr(net.core, f"weight_hh_l{layer}"))
            nn.init.zeros_(getattr(net.core, f"bias_hh_l{layer}"))
    return net


@register("gru", example_shape=(8,), recurrent=True)
def gru(
    input_shape: tuple[int, ...],
    *,
    hidden: int = 128,
    num_layers: int = 1,
    dropout: float = 0.0,
    encoder: BackboneConfig | None = None,
) -> nn.Module:
    """Gated recurrent unit (Cho et al. 2014)."""
    return Recurrent(nn.GRU, input_shape, encoder, hidden, num_layers, dropout)
