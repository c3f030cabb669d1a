"""PixelCNN++ one pixel at a time: the upper stream does whole rows, the left one single pixels.

A stage of stride s works in every s-th row and column only. What the left stream reads of a row stays where it is.

B batch, W width, F filters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generative.autoregressive.backbones.causal import RowBuffer, Stream, bias_of, keep
from generative.autoregressive.backbones.pixelcnn_pp import Conv, GatedResidual, PixelCNNPP, ShiftedConv2d, Stage


class ShiftedStream:
    """A ShiftedConv2d on whole rows (upper stream) or on single pixels (left stream)."""

    def __init__(self, conv: ShiftedConv2d, batch_size: int, width: int) -> None:
        self.conv, self.stride = conv, conv.stride[0]
        self.height, self.width = conv.kernel_size
        self.buffer = RowBuffer(conv.weight, batch_size, width, conv.in_channels, 1)
        self.taps = conv.weight.permute(2, 3, 1, 0).reshape(-1, conv.out_channels).contiguous()  # (taps * in, out)

    def push(self, row: Tensor) -> None:
        """Take the next row of inputs (B, W, in)."""
        self.buffer.begin_row()
        self.buffer.fill(row)

    def whole_row(self) -> Tensor:
        """The outputs (B, W / stride, out) of the current row."""
        image = F.pad(self.buffer.image(2 - self.height, 2), (*self.conv.margin[:2], 0, 0))
        out = F.conv2d(image, self.conv.weight, self.conv.bias, stride=self.stride)
        return out[:, :, 0].transpose(1, 2)

    def row(self, row: Tensor) -> Tensor:
        """Take a row and give its outputs."""
        self.push(row)
        return self.whole_row()

    def pixel(self, column: int, x: Tensor) -> Tensor:
        """Take the input (B, in) at `column` and give the output (B, out) there."""
        self.buffer.put(column, x)
        return self.at(column)

    def at(self, column: int) -> Tensor:
        """The output at `column` of the input grid."""
        end = 1 + column + 1
        window = self.buffer.rows[:, 2 - self.height :, end - self.width : end]
        return torch.addmm(bias_of(self.conv), window.flatten(1), self.taps)


class BlockStream(NamedTuple):
    """A block, its bias from the context, and its convolutions at work."""

    block: GatedResidual
    bias: Tensor | None
    conv1: ShiftedStream
    conv2: ShiftedStream


class StageStream:
    """What a stage keeps: rows of each convolution's inputs, skips of the row, and the grown coarse features."""

    def __init__(self, stage: Stage, batch_size: int, width: int, context: Tensor | None) -> None:
        def streams(blocks: nn.ModuleList) -> list[BlockStream]:
            made = []
            for block in blocks:
                assert isinstance(block, GatedResidual)
                conv1, conv2 = (ShiftedStream(conv, batch_size, width) for conv in (block.conv1, block.conv2))
                made.append(BlockStream(block, block.context(context), conv1, conv2))
            return made

        self.stage, self.coarsest = stage, stage.coarsest
        self.u_down, self.ul_down = streams(stage.u_down), streams(stage.ul_down)
        self.u_up, self.ul_up = streams(stage.u_up), streams(stage.ul_up)
        self.u_rows_down: list[Tensor] = []
        self.u_rows_up: list[Tensor] = []
        if not self.coarsest:
            self.u_shrink = ShiftedStream(stage.u_shrink, batch_size, width)
            self.ul_shrink = ShiftedStream(stage.ul_shrink, batch_size, width)
            self.u_coarse = stage.u_shrink.weight.new_zeros(0)  # (B, W / 2, F): the coarser stage's last row
            self.ul_coarse = stage.ul_shrink.weight.new_zeros(batch_size, width // 2, stage.ul_shrink.out_channels)

    def left_streams(self) -> list[ShiftedStream]:
        """Those that take single pixels."""
        shrink = [] if self.coarsest else [self.ul_shrink]
        return [
            conv for blocks in (self.ul_down, self.ul_up) for block in blocks for conv in (block.conv1, block.conv2)
        ] + shrink


class PixelCNNPPStream(Stream):
    """See the top of this file."""

    def __init__(self, net: PixelCNNPP, batch_size: int, width: int, context: Tensor | None) -> None:
        self.row_index = -1
        self.period = 2 ** (len(net.stages) - 1)
        self.u_input = ShiftedStream(net.u_input, batch_size, width)
        self.ul_above = ShiftedStream(net.ul_above, batch_size, width)
        self.ul_left = ShiftedStream(net.ul_left, batch_size, width)
        self.stages = [
            StageStream(stage, batch_size, width // 2**i, context)  # type: ignore[arg-type]
            for i, stage in enumerate(net.stages)
        ]
        self.from_above: list[Tensor] = []

    def begin_row(self, above: Tensor) -> None:
        self.row_index += 1
        row = with_ones(above, self.row_index > 0)
        keep(self.from_above, [self.ul_above.row(row)])
        self.ul_left.buffer.begin_row()
        self._upper(0, self.u_input.row(row))

    def step(self, column: int, left: Tensor) -> Tensor:
        ul = self.from_above[0][:, column] + self.ul_left.pixel(column, with_ones(left, column > 0))
        return self._left(0, column, ul)

    def _upper(self, index: int, u: Tensor) -> Tensor:
        """The upper stream's row (B, W, F) of a stage whose turn it is."""
        stage = self.stages[index]
        for stream in stage.left_streams():
            stream.buffer.begin_row()
        rows = [u]
        for block, bias, conv1, conv2 in stage.u_down:
            u = block.run(u, None, bias, conv1.row, conv2.row)
            rows.append(u)
        keep(stage.u_rows_down, rows)
        if stage.coarsest:
            rows.pop()
        else:
            stage.u_shrink.push(u)
            odd = self.row_index // 2**index % 2
            if not odd:
                stage.u_coarse = self._upper(index + 1, stage.u_shrink.whole_row())
            u = grown_row(stage.stage.u_grow, stage.u_coarse, odd)
        rows_up = []
        for block, bias, conv1, conv2 in stage.u_up:
            u = block.run(u, rows.pop(), bias, conv1.row, conv2.row)
            rows_up.append(u)
        keep(stage.u_rows_up, rows_up)
        return u

    def _left(self, index: int, column: int, ul: Tensor) -> Tensor:
        """The left stream's pixel (B, F) of a stage whose turn it is; `column` counts in its own grid."""
        stage = self.stages[index]
        kept = [ul]
        for (block, bias, conv1, conv2), u_row in zip(stage.ul_down, stage.u_rows_down[1:], strict=True):
            ul = block.run(ul, u_row[:, column], bias, at(conv1, column), at(conv2, column))
            kept.append(ul)
        if stage.coarsest:
            kept.pop()
        else:
            stage.ul_shrink.buffer.put(column, ul)
            odd = self.row_index // 2**index % 2
            if not odd and column % 2 == 0:
                coarse = self._left(index + 1, column // 2, stage.ul_shrink.at(column))
                stage.ul_coarse[:, column // 2] = coarse
            grow = stage.stage.ul_grow
            ul = torch.addmm(bias_of(grow), stage.ul_coarse[:, column // 2], grow.weight[:, :, odd, column % 2])
        for (block, bias, conv1, conv2), u_row in zip(stage.ul_up, stage.u_rows_up, strict=True):
            skip = torch.cat([u_row[:, column], kept.pop()], -1)
            ul = block.run(ul, skip, bias, at(conv1, column), at(conv2, column))
        return ul


def with_ones(x: Tensor, inside: bool) -> Tensor:
    """Pixels or rows (..., C) in [0, 1] scaled to [-1, 1] with a channel of ones; zeros outside of the image."""
    ones = torch.ones_like(x[..., :1])
    return torch.cat([2 * x - 1, ones], -1) if inside else torch.cat([0 * x, 0 * ones], -1)


def at(stream: ShiftedStream, column: int) -> Conv:
    """The convolution of single pixels at `column`."""
    return lambda x: stream.pixel(column, x)


def grown_row(grow: nn.ConvTranspose2d, coarse: Tensor, odd: int) -> Tensor:
    """The even or odd row (B, 2 W, F) of two that grow from a coarse row (B, W, F)."""
    pairs = torch.einsum("bwf,fgc->bwcg", coarse, grow.weight[:, :, odd])
    return pairs.flatten(1, 2) + bias_of(grow)
