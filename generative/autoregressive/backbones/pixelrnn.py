"""The two networks of PixelRNN (van den Oord et al. 2016): Row LSTM and Diagonal BiLSTM.

A masked 7x7 convolution, then residual layers of a two-dimensional LSTM. Features of a layer's input at a pixel know
the pixels before it, so its LSTM may look at that input itself.

B batch, C channels, H height, W width, D hidden units; gates are ordered output, forget, input, content.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generative.autoregressive.backbones.causal import (
    Causal,
    ContextBias,
    PixelStream,
    RowBuffer,
    add_bias,
    bias_of,
    channels_last,
    image_channels,
    pointwise,
    tap_matrix,
)
from generative.autoregressive.backbones.pixelcnn import CausalConv2d
from lab.backbones.registry import register


def lstm_cell(gates: Tensor, cell: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Hidden and cell state from the gates' inputs, which have 4 D numbers along `dim`."""
    num = gates.shape[dim] // 4
    output, forget, write = torch.sigmoid(gates.narrow(dim, 0, 3 * num)).chunk(3, dim)
    cell = forget * cell + write * torch.tanh(gates.narrow(dim, 3 * num, num))
    return output * torch.tanh(cell), cell


class RowLSTM(nn.Module):
    """Row by row, each from the row above through a 1x3 convolution: it sees a triangle of the rows above."""

    def __init__(self, image_channels: int, channels_in: int, hidden: int, context: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.from_input = nn.Conv2d(channels_in, 4 * hidden, (1, 2))  # a 1x3 convolution with mask B
        self.from_state = nn.Conv1d(hidden, 4 * hidden, 3, padding=1, bias=False)
        self.context = ContextBias(context, 4 * hidden)

    def forward(self, x: Tensor, image: Tensor, context: Tensor | None) -> Tensor:
        gates = add_bias(self.from_input(F.pad(x, (1, 0))), self.context(context))  # (B, 4 D, H, W)
        state = cell = x.new_zeros(x.shape[0], self.hidden, x.shape[3])
        rows = []
        for row in gates.unbind(2):
            state, cell = lstm_cell(row + self.from_state(state), cell, 1)
            rows.append(state)
        return torch.stack(rows, 2)

    def stream(self, batch_size: int, width: int, context: Tensor | None) -> RowLSTMStream:
        return RowLSTMStream(self, batch_size, width, context)


class RowLSTMStream:
    def __init__(self, layer: RowLSTM, batch_size: int, width: int, context: Tensor | None) -> None:
        weight = layer.from_input.weight
        self.layer, self.taps, self.bias = layer, tap_matrix(weight), layer.context(context)
        self.buffer = RowBuffer(weight, batch_size, width, weight.shape[1], 1)
        self.states = weight.new_zeros(batch_size, width, layer.hidden)  # of the row above, then of this one
        self.cells = torch.zeros_like(self.states)
        self.gates = weight.new_zeros(batch_size, width, 4 * layer.hidden)

    def begin_row(self, above: Tensor) -> None:
        from_state = self.layer.from_state(self.states.transpose(1, 2)).transpose(1, 2)
        self.gates.copy_(add_bias(from_state + bias_of(self.layer.from_input), self.bias))

    def step(self, column: int, x: Tensor) -> Tensor:
        self.buffer.put(column, x)
        gates = torch.addmm(self.gates[:, column], self.buffer.before(column + 1, 2), self.taps)
        state, cell = lstm_cell(gates, self.cells[:, column], 1)
        self.states[:, column], self.cells[:, column] = state, cell
        return state


class DiagonalBiLSTM(nn.Module):
    """Along both diagonals at once: to the right and to the left, each from its neighbour and the pixel above.

    The part that runs to the left is moved down by a row before the two are added, so that it knows earlier rows alone.
    So it may read each pixel itself, without which no feature of the next row would know the last pixel of this one.
    """

    def __init__(self, image_channels: int, channels_in: int, hidden: int, context: int) -> None:
        super().__init__()
        self.hidden = hidden
        bound = (2 * hidden) ** -0.5
        self.from_input = nn.Conv2d(channels_in, 8 * hidden, 1)
        self.from_pixel = nn.Conv2d(image_channels, 4 * hidden, 1, bias=False)
        self.from_state = nn.Parameter(torch.empty(2, 2 * hidden, 4 * hidden).uniform_(-bound, bound))
        self.context = ContextBias(context, 8 * hidden)

    def forward(self, x: Tensor, image: Tensor, context: Tensor | None) -> Tensor:
        right, left = add_bias(self.from_input(x), self.context(context)).chunk(2, 1)
        left = (left + self.from_pixel(image)).flip(3)
        gates = torch.stack([right, left]).permute(3, 4, 0, 1, 2)  # (H, W, 2, B, 4 D)
        right, left = self._run(gates).unbind(2)
        both = right + F.pad(left.flip(1)[:-1], (0, 0, 0, 0, 0, 0, 1, 0))
        return both.permute(2, 3, 0, 1)

    def _run(self, gates: Tensor) -> Tensor:
        """Gates (H, W, 2, B, 4 D) -> states (H, W, 2, B, D), a diagonal at a time (the paper's skewed image)."""
        height, width, _, batch_size, _ = gates.shape
        rows = torch.arange(height, device=gates.device)[:, None].expand(height, width)
        diagonals = rows + torch.arange(width, device=gates.device)
        skewed = gates.new_zeros(height + width - 1, height, 2, batch_size, 4 * self.hidden)
        skewed = skewed.index_put((diagonals, rows), gates)
        started = torch.arange(height + width - 1, device=gates.device)[:, None] >= rows[:, 0]  # (T, H)
        inside = started.to(gates.dtype)[:, :, None, None, None]
        state = cell = gates.new_zeros(height, 2, batch_size, self.hidden)
        states = []
        for t, now in enumerate(skewed.unbind(0)):
            above = F.pad(state[:-1], (0, 0, 0, 0, 0, 0, 1, 0))
            both = torch.cat([state, above], -1)  # (H, 2, B, 2 D)
            state, cell = lstm_cell(now + both @ self.from_state, cell, 3)
            state, cell = state * inside[t], cell * inside[t]  # nothing happens left of the image
            states.append(state)
        return torch.stack(states)[diagonals, rows]

    def stream(self, batch_size: int, width: int, context: Tensor | None) -> DiagonalStream:
        return DiagonalStream(self, batch_size, width, context)


class DiagonalStream:
    """To the right pixel by pixel; to the left when a row is finished."""

    def __init__(self, layer: DiagonalBiLSTM, batch_size: int, width: int, context: Tensor | None) -> None:
        weight = layer.from_input.weight
        self.layer, self.first = layer, True
        self.width = width
        bias = layer.context(context)
        self.context: tuple[Tensor | None, ...] = (None, None) if bias is None else bias.chunk(2, 1)
        self.weights = weight[:, :, 0, 0].chunk(2)
        self.biases = bias_of(layer.from_input).chunk(2)
        self.inputs = weight.new_zeros(batch_size, width, weight.shape[1])
        self.right = weight.new_zeros(batch_size, width, layer.hidden)  # states of the row above, then of this one
        self.left = torch.zeros_like(self.right)  # states of the row above
        self.state, self.cell = torch.zeros_like(self.right[:, 0]), torch.zeros_like(self.right[:, 0])

    def begin_row(self, above: Tensor) -> None:
        self.state.zero_()
        self.cell.zero_()
        if self.first:
            self.first = False
            return
        gates = add_bias(F.linear(self.inputs, self.weights[1], self.biases[1]), self.context[1])
        gates = gates + pointwise(self.layer.from_pixel, above)  # (B, W, 4 D)
        state = cell = torch.zeros_like(self.state)
        for column in reversed(range(self.width)):
            both = torch.cat([state, self.left[:, column]], 1)
            state, cell = lstm_cell(torch.addmm(gates[:, column], both, self.layer.from_state[1]), cell, 1)
            self.left[:, column] = state

    def step(self, column: int, x: Tensor) -> Tensor:
        self.inputs[:, column] = x
        gates = add_bias(F.linear(x, self.weights[0], self.biases[0]), self.context[0])
        both = torch.cat([self.state, self.right[:, column]], 1)
        gates = torch.addmm(gates, both, self.layer.from_state[0])
        state, cell = lstm_cell(gates, self.cell, 1)
        self.state.copy_(state)
        self.cell.copy_(cell)
        self.right[:, column] = state
        return state + self.left[:, column]


class PixelRNN(Causal):
    """Residual layers of `kind` LSTMs after a masked convolution."""

    def __init__(
        self, kind: type[RowLSTM | DiagonalBiLSTM], channels_in: int, hidden: int, layers: int, first: int, context: int
    ) -> None:
        super().__init__()
        self.input = CausalConv2d(channels_in, 2 * hidden, first, center=False)
        self.lstms = nn.ModuleList(kind(channels_in, 2 * hidden, hidden, context) for _ in range(layers))
        self.outs = nn.ModuleList(nn.Conv2d(hidden, 2 * hidden, 1) for _ in range(layers))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = channels_last(self.input(x))
        for lstm, out in zip(self.lstms, self.outs, strict=True):
            h = h + out(lstm(h, x, context))
        return h

    def stream(self, batch_size: int, width: int, context: Tensor | None = None) -> PixelStream:
        return PixelRNNStream(self, batch_size, width, context)


class PixelRNNStream(PixelStream):
    def __init__(self, net: PixelRNN, batch_size: int, width: int, context: Tensor | None) -> None:
        self.input = net.input.stream(batch_size, width)
        self.outs: list[nn.Conv2d] = list(net.outs)  # type: ignore[arg-type]
        self.lstms: list[RowLSTMStream | DiagonalStream] = [
            lstm.stream(batch_size, width, context)  # type: ignore[operator]
            for lstm in net.lstms
        ]

    def begin_row(self, above: Tensor) -> None:
        self.input.begin_row(above)
        for lstm in self.lstms:
            lstm.begin_row(above)

    def step(self, column: int, left: Tensor) -> Tensor:
        h = self.input.step(column, left)
        for lstm, out in zip(self.lstms, self.outs, strict=True):
            h = h + pointwise(out, lstm.step(column, h))
        return h


@register("row_lstm", example_shape=(1, 8, 8))
def row_lstm(
    input_shape: tuple[int, ...], *, hidden: int = 16, layers: int = 3, first_kernel: int = 7, context: int = 0
) -> nn.Module:
    """PixelRNN's Row LSTM (van den Oord et al. 2016): a convolutional LSTM from row to row."""
    return PixelRNN(RowLSTM, image_channels(input_shape), hidden, layers, first_kernel, context)


@register("diagonal_bilstm", example_shape=(1, 8, 8))
def diagonal_bilstm(
    input_shape: tuple[int, ...], *, hidden: int = 16, layers: int = 3, first_kernel: int = 7, context: int = 0
) -> nn.Module:
    """PixelRNN's Diagonal BiLSTM (van den Oord et al. 2016): LSTMs along both diagonals, no blind spot."""
    return PixelRNN(DiagonalBiLSTM, image_channels(input_shape), hidden, layers, first_kernel, context)
