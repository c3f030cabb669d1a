"""The network of PixelCNN++ (Salimans et al. 2017): two streams through a U of resolutions with skip connections.

The upper stream `u` sees the rows above, the left stream `ul` sees those and the pixels on the left. Going down, a
position (i, j) of the coarser grid sees the finer one up to (2i, 2j), and is used from there on, so that nothing leaks.
Weights are plain ones: no weight normalisation with data-dependent initialisation as in the authors' code.

B batch, C channels, H height, W width, F filters, S stages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones.masked import (
    Causal,
    ContextBias,
    RowBuffer,
    Stream,
    add_bias,
    bias_of,
    channels_last,
    image_channels,
    pointwise,
    shift_down,
    shift_right,
)
from lab.backbones.registry import register

Conv = Callable[[Tensor], Tensor]


def concat_elu(x: Tensor) -> Tensor:
    """ELU of x and of -x, one after the other: dimension 1 of images, the last of rows and pixels."""
    return F.elu(torch.cat([x, -x], 1 if x.dim() == 4 else -1))


class ShiftedConv2d(nn.Conv2d):
    """A convolution over the current row and those above; `right` columns on the right are seen, too."""

    def __init__(self, channels_in: int, channels_out: int, size: tuple[int, int], *, right: int, stride: int = 1):
        super().__init__(channels_in, channels_out, size, stride=stride)
        self.margin = (size[1] - 1 - right, right, size[0] - 1, 0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.margin))


class GatedResidual(nn.Module):
    """Two convolutions around concat_elu beside a shortcut, the second one gated; `skip` joins after the first."""

    def __init__(self, filters: int, skip: int, *, upper: bool, context: int, dropout: float) -> None:
        super().__init__()
        size, right = ((2, 3), 1) if upper else ((2, 2), 0)
        self.conv1 = ShiftedConv2d(2 * filters, filters, size, right=right)
        self.conv2 = ShiftedConv2d(2 * filters, 2 * filters, size, right=right)
        self.skip = nn.Conv2d(2 * skip, filters, 1) if skip else None
        self.context = ContextBias(context, 2 * filters)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, skip: Tensor | None, context: Tensor | None) -> Tensor:
        return self.run(x, skip, self.context(context), self.conv1, self.conv2)

    def run(self, x: Tensor, skip: Tensor | None, bias: Tensor | None, conv1: Conv, conv2: Conv) -> Tensor:
        """The block on images, rows or pixels, with what convolves those."""
        h = conv1(concat_elu(x))
        if self.skip is not None and skip is not None:
            active = concat_elu(skip)
            h = h + (self.skip(active) if x.dim() == 4 else pointwise(self.skip, active))
        h = add_bias(conv2(self.dropout(concat_elu(h))), bias)
        a, b = h.chunk(2, 1 if x.dim() == 4 else -1)
        return x + a * torch.sigmoid(b)


class Stage(nn.Module):
    """The blocks of one resolution: on the way down, on the way up, and what leads to the next coarser one."""

    def __init__(self, filters: int, blocks: int, *, coarsest: bool, context: int, dropout: float) -> None:
        super().__init__()

        def stack(num: int, skip: int, upper: bool) -> nn.ModuleList:
            make = (GatedResidual(filters, skip, upper=upper, context=context, dropout=dropout) for _ in range(num))
            return nn.ModuleList(make)

        up = blocks if coarsest else blocks + 1  # one more for the skip from the stage's first features
        self.u_down, self.ul_down = stack(blocks, 0, True), stack(blocks, filters, False)
        self.u_up, self.ul_up = stack(up, filters, True), stack(up, 2 * filters, False)
        self.coarsest = coarsest
        if not coarsest:
            self.u_shrink = ShiftedConv2d(filters, filters, (2, 3), right=1, stride=2)
            self.ul_shrink = ShiftedConv2d(filters, filters, (2, 2), right=0, stride=2)
            self.u_grow = nn.ConvTranspose2d(filters, filters, 2, stride=2)
            self.ul_grow = nn.ConvTranspose2d(filters, filters, 2, stride=2)


class PixelCNNPP(Causal):
    """See `pixelcnn_pp`."""

    def __init__(self, channels: int, filters: int, blocks: int, stages: int, dropout: float, context: int) -> None:
        super().__init__()
        channels += 1  # ones, so that padding can be told from black
        self.u_input = ShiftedConv2d(channels, filters, (2, 3), right=1)
        self.ul_above = ShiftedConv2d(channels, filters, (1, 3), right=1)
        self.ul_left = ShiftedConv2d(channels, filters, (2, 1), right=0)
        self.stages = nn.ModuleList(
            Stage(filters, blocks, coarsest=i == stages - 1, context=context, dropout=dropout) for i in range(stages)
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = F.pad(2 * x - 1, (0, 0, 0, 0, 0, 1), value=1.0)
        down, right = channels_last(shift_down(x)), channels_last(shift_right(x))
        u, ul = self.u_input(down), self.ul_above(down) + self.ul_left(right)
        return self._stage(0, u, ul, context)[1]

    def _stage(self, index: int, u: Tensor, ul: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both streams after all that happens at this resolution and the coarser ones."""
        stage: Stage = self.stages[index]  # type: ignore[assignment]
        kept = [(u, ul)]
        for u_block, ul_block in zip(stage.u_down, stage.ul_down, strict=True):
            u = u_block(u, None, context)
            ul = ul_block(ul, u, context)
            kept.append((u, ul))
        if stage.coarsest:
            kept.pop()
        else:
            coarse_u, coarse_ul = self._stage(index + 1, stage.u_shrink(u), stage.ul_shrink(ul), context)
            u, ul = stage.u_grow(coarse_u), stage.ul_grow(coarse_ul)
        for u_block, ul_block in zip(stage.u_up, stage.ul_up, strict=True):
            u_skip, ul_skip = kept.pop()
            u = u_block(u, u_skip, context)
            ul = ul_block(ul, torch.cat([u, ul_skip], 1), context)
        return u, ul

    def stream(self, batch_size: int, width: int, context: Tensor | None = None) -> Stream:
        return PixelCNNPPStream(self, batch_size, width, context)


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
    """A stage of stride s works in every s-th row and column only."""

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
        self.from_above = self.ul_above.taps

    def begin_row(self, above: Tensor) -> None:
        self.row_index += 1
        row = with_ones(above, self.row_index > 0)
        self.from_above = self.ul_above.row(row)
        self.ul_left.buffer.begin_row()
        self._upper(0, self.u_input.row(row))

    def step(self, column: int, left: Tensor) -> Tensor:
        ul = self.from_above[:, column] + self.ul_left.pixel(column, with_ones(left, column > 0))
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
        stage.u_rows_down = list(rows)
        if stage.coarsest:
            rows.pop()
        else:
            stage.u_shrink.push(u)
            odd = self.row_index // 2**index % 2
            if not odd:
                stage.u_coarse = self._upper(index + 1, stage.u_shrink.whole_row())
            u = grown_row(stage.stage.u_grow, stage.u_coarse, odd)
        stage.u_rows_up = []
        for block, bias, conv1, conv2 in stage.u_up:
            u = block.run(u, rows.pop(), bias, conv1.row, conv2.row)
            stage.u_rows_up.append(u)
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


@register("pixelcnn_pp", example_shape=(3, 8, 8))
def pixelcnn_pp(
    input_shape: tuple[int, ...],
    *,
    filters: int = 32,
    blocks: int = 2,
    stages: int = 3,
    dropout: float = 0.0,
    context: int = 0,
) -> nn.Module:
    """PixelCNN++'s network (Salimans et al. 2017): two streams through three resolutions with skips."""
    factor = 2 ** (stages - 1)
    if image_channels(input_shape) and (input_shape[1] % factor or input_shape[2] % factor):
        raise ValueError(f"height and width need to be multiples of {factor} for {stages} stages")
    return PixelCNNPP(image_channels(input_shape), filters, blocks, stages, dropout, context)
