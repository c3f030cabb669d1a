"""Gated PixelCNN (van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders).

A vertical stack sees all rows above, a horizontal one the pixels on the left and the vertical one's features: no blind
spot. The image enters the stacks shifted by a row and by a column, so that no layer masks anything.

B batch, C channels, H height, W width, K kernel size.
"""

from __future__ import annotations

import itertools

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
    shift_down,
    shift_right,
    store_in_place,
    tap_matrix,
)
from lab.backbones.registry import register


def gate(x: Tensor) -> Tensor:
    """tanh(a / 2) * sigmoid(b) of the halves of the channels: dimension 1 of images, the last of rows and pixels.

    The paper has tanh(a), which is the same with other weights; tanh(a / 2) = 2 sigmoid(a) - 1 needs one function over
    contiguous memory, four times as fast as two functions over the halves.
    """
    a, b = torch.sigmoid(x).chunk(2, dim=1 if x.dim() == 4 else -1)
    return (2 * a - 1) * b


GATE_SLOPE = 0.25
"""how much of a small signal in the first half of the channels `gate` lets through"""


class GatedLayer(nn.Module):
    """One layer of two stacks (van den Oord et al. 2016, Conditional Image Generation, figure 2).

    The inputs of the first layer are shifted (vertical down, horizontal right), so that no layer masks anything.
    """

    def __init__(self, channels_in: int, channels: int, kernel_size: int, context: int, *, last: bool) -> None:
        super().__init__()
        self.reach, self.residual, self.last = kernel_size // 2, channels_in == channels, last
        self.vertical = nn.Conv2d(channels_in, 2 * channels, (self.reach + 1, kernel_size))
        self.horizontal = nn.Conv2d(channels_in, 2 * channels, (1, self.reach + 1))
        self.link = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels if last else 2 * channels, 1)
        self.context_v, self.context_h = ContextBias(context, 2 * channels), ContextBias(context, 2 * channels)
        # no shortcut passes the vertical stack's gates: unless its weights make up for them, rows further up fade away
        bound = (3 / self.vertical.weight[0].numel()) ** 0.5 / GATE_SLOPE
        nn.init.uniform_(self.vertical.weight, -bound, bound)

    def forward(self, v: Tensor, h: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Vertical stack, horizontal stack and skip connection, each (B, channels, H, W)."""
        reach = self.reach
        from_v = self.vertical(F.pad(v, (reach, reach, reach, 0)))
        from_h = self.horizontal(F.pad(h, (reach, 0))) + self.link(from_v)
        out = self.out(gate(add_bias(from_h, self.context_h(context))))
        if self.last:
            return v, h, out
        residual, skip = out.chunk(2, dim=1)
        v = gate(add_bias(from_v, self.context_v(context)))
        return v, (h + residual if self.residual else residual), skip


class GatedPixelCNN(Causal):
    """See `gated_pixelcnn`."""

    def __init__(self, channels_in: int, channels: int, layers: int, first_kernel: int, kernel: int, context: int):
        super().__init__()
        widths = [channels_in, *([channels] * layers)]
        self.layers = nn.ModuleList(
            GatedLayer(before, after, first_kernel if i == 0 else kernel, context, last=i == layers - 1)
            for i, (before, after) in enumerate(itertools.pairwise(widths))
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        v, h = channels_last(shift_down(x)), channels_last(shift_right(x))
        skips: Tensor | None = None
        for layer in self.layers:
            v, h, skip = layer(v, h, context)
            skips = skip if skips is None else skips + skip
        assert skips is not None
        return skips

    def stream(self, batch_size: int, width: int, context: Tensor | None = None) -> PixelStream:
        return GatedStream(self, batch_size, width, context)


class GatedStream(PixelStream):
    """The vertical stack does whole rows; only the horizontal one works pixel by pixel.

    All layers' skip connections are one product of all their gates, made when the last layer is done.
    """

    def __init__(self, net: GatedPixelCNN, batch_size: int, width: int, context: Tensor | None) -> None:
        self.layers: list[GatedLayer] = list(net.layers)  # type: ignore[arg-type]
        self.biases = [(layer.context_v(context), layer.context_h(context)) for layer in self.layers]
        self.vertical: list[RowBuffer] = []
        self.horizontal: list[HorizontalStream] = []
        for layer in self.layers:
            like, channels_in = layer.vertical.weight, layer.vertical.in_channels
            self.vertical.append(RowBuffer(like, batch_size, width, channels_in, layer.reach))
            self.horizontal.append(HorizontalStream(layer, batch_size, width))
        channels = self.layers[-1].out.in_channels
        self.gates = like.new_zeros(batch_size, len(self.layers), channels)
        self.to_skips = torch.cat([horizontal.to_skip for horizontal in self.horizontal])  # (layers * C, C)
        self.skip_bias = torch.stack([horizontal.skip_bias for horizontal in self.horizontal]).sum(0)
        self.from_above: list[Tensor] = []

    def begin_row(self, above: Tensor) -> None:
        v, rows = above, []
        for layer, buffer, (bias_v, bias_h) in zip(self.layers, self.vertical, self.biases, strict=True):
            buffer.begin_row()
            buffer.fill(v)
            conv = layer.vertical
            image = buffer.image(0, layer.reach + 1)
            from_v = F.conv2d(image, conv.weight, conv.bias, padding=(0, layer.reach))[:, :, 0].transpose(1, 2)
            rows.append(add_bias(pointwise(layer.link, from_v) + bias_of(layer.horizontal), bias_h))
            v = gate(add_bias(from_v, bias_v))
        store_in_place(self.from_above, rows)

    def step(self, column: int, left: Tensor) -> Tensor:
        h = left
        for horizontal, above, out in zip(self.horizontal, self.from_above, self.gates.unbind(1), strict=True):
            h = horizontal.step(column, h, above[:, column], out)
        return torch.addmm(self.skip_bias, self.gates.flatten(1), self.to_skips)


class HorizontalStream:
    """The horizontal part of a GatedLayer, one pixel at a time."""

    def __init__(self, layer: GatedLayer, batch_size: int, width: int) -> None:
        conv, out = layer.horizontal, layer.out
        self.taps, self.num_taps, self.residual = tap_matrix(conv.weight), layer.reach + 1, layer.residual
        self.row = conv.weight.new_zeros(batch_size, layer.reach + width, conv.in_channels)  # zeros on the left
        matrix = out.weight[:, :, 0, 0].t()  # (C, residual and skip)
        self.to_skip, self.skip_bias = matrix[:, -out.in_channels :], bias_of(out)[-out.in_channels :]
        self.to_residual = None if layer.last else matrix[:, : out.in_channels].contiguous()
        self.residual_bias = bias_of(out)[: out.in_channels]

    def step(self, column: int, h: Tensor, above: Tensor, gates: Tensor) -> Tensor:
        """The stack's next h (B, C) at `column` from this layer's; writes the layer's gates (B, C)."""
        end = column + self.num_taps
        self.row[:, end - 1] = h
        a, b = torch.addmm(above, self.row[:, column:end].flatten(1), self.taps).sigmoid_().chunk(2, 1)
        torch.addcmul(b, a, b, value=-2, out=gates).neg_()
        if self.to_residual is None:
            return h
        residual = torch.addmm(self.residual_bias, gates, self.to_residual)
        return residual.add_(h) if self.residual else residual


@register("gated_pixelcnn", example_shape=(1, 8, 8))
def gated_pixelcnn(
    input_shape: tuple[int, ...],
    *,
    channels: int = 32,
    layers: int = 8,
    first_kernel: int = 7,
    kernel: int = 3,
    context: int = 0,
) -> nn.Module:
    """Gated PixelCNN (van den Oord et al. 2016): vertical and horizontal stacks, no blind spot."""
    return GatedPixelCNN(image_channels(input_shape), channels, layers, first_kernel, kernel, context)
