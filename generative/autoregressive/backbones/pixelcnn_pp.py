"""The network of PixelCNN++ (Salimans et al. 2017): two streams through a U of resolutions with skip connections.

The upper stream `u` sees the rows above, the left stream `ul` sees those and the pixels on the left. Going down, a
position (i, j) of the coarser grid sees the finer one up to (2i, 2j), and is used from there on, so that nothing leaks.
Weights are plain ones: no weight normalisation with data-dependent initialisation as in the authors' code.

B batch, C channels, H height, W width, F filters, S stages.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generative.autoregressive.backbones.causal import (
    Causal,
    PixelStream,
    bias_of,
    channels_last,
    image_channels,
    shift_down,
    shift_right,
    store_in_place,
)
from generative.autoregressive.backbones.gated_residual import (
    BlockStream,
    GatedResidual,
    ShiftedConv2d,
    ShiftedStream,
    stream_block,
)
from lab.backbones.registry import register


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
        skips = [(u, ul)]
        for u_block, ul_block in zip(stage.u_down, stage.ul_down, strict=True):
            u = u_block(u, None, context)
            ul = ul_block(ul, u, context)
            skips.append((u, ul))
        if stage.coarsest:
            skips.pop()
        else:
            coarse_u, coarse_ul = self._stage(index + 1, stage.u_shrink(u), stage.ul_shrink(ul), context)
            u, ul = stage.u_grow(coarse_u), stage.ul_grow(coarse_ul)
        for u_block, ul_block in zip(stage.u_up, stage.ul_up, strict=True):
            u_skip, ul_skip = skips.pop()
            u = u_block(u, u_skip, context)
            ul = ul_block(ul, torch.cat([u, ul_skip], 1), context)
        return u, ul

    def stream(self, batch_size: int, width: int, context: Tensor | None = None) -> PixelStream:
        return PixelCNNPPStream(self, batch_size, width, context)


class StageStream:
    """The memory of a stage: rows of each convolution's inputs, skips of the row, and the last coarse features."""

    def __init__(self, stage: Stage, batch_size: int, width: int, context: Tensor | None) -> None:
        def streams(blocks: nn.ModuleList) -> list[BlockStream]:
            return [stream_block(block, batch_size, width, context) for block in blocks]  # type: ignore[arg-type]

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


class PixelCNNPPStream(PixelStream):
    """One pixel at a time: the upper stream does whole rows, the left one single pixels.

    A stage of stride s works in every s-th row and column only. The memory that the left stream reads stays in place.
    """

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
        store_in_place(self.from_above, [self.ul_above.row(row)])
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
        for block in stage.u_down:
            u = block.row(u, None)
            rows.append(u)
        store_in_place(stage.u_rows_down, rows)
        if stage.coarsest:
            rows.pop()
        else:
            stage.u_shrink.push(u)
            odd = self.row_index // 2**index % 2
            if not odd:
                stage.u_coarse = self._upper(index + 1, stage.u_shrink.whole_row())
            u = grown_row(stage.stage.u_grow, stage.u_coarse, odd)
        rows_up = []
        for block in stage.u_up:
            u = block.row(u, rows.pop())
            rows_up.append(u)
        store_in_place(stage.u_rows_up, rows_up)
        return u

    def _left(self, index: int, column: int, ul: Tensor) -> Tensor:
        """The left stream's pixel (B, F) of a stage whose turn it is; `column` counts in its own grid."""
        stage = self.stages[index]
        skips = [ul]
        for block, u_row in zip(stage.ul_down, stage.u_rows_down[1:], strict=True):
            ul = block.pixel(column, ul, u_row[:, column])
            skips.append(ul)
        if stage.coarsest:
            skips.pop()
        else:
            stage.ul_shrink.buffer.put(column, ul)
            odd = self.row_index // 2**index % 2
            if not odd and column % 2 == 0:
                coarse = self._left(index + 1, column // 2, stage.ul_shrink.at(column))
                stage.ul_coarse[:, column // 2] = coarse
            grow = stage.stage.ul_grow
            ul = torch.addmm(bias_of(grow), stage.ul_coarse[:, column // 2], grow.weight[:, :, odd, column % 2])
        for block, u_row in zip(stage.ul_up, stage.u_rows_up, strict=True):
            ul = block.pixel(column, ul, torch.cat([u_row[:, column], skips.pop()], -1))
        return ul


def with_ones(x: Tensor, inside: bool) -> Tensor:
    """Pixels or rows (..., C) in [0, 1] scaled to [-1, 1] with a channel of ones; zeros outside of the image."""
    ones = torch.ones_like(x[..., :1])
    return torch.cat([2 * x - 1, ones], -1) if inside else torch.cat([0 * x, 0 * ones], -1)


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
