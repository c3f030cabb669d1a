"""The network of PixelCNN++ (Salimans et al. 2017): two streams through a U of resolutions with skip connections.

The upper stream `u` sees the rows above, the left stream `ul` sees those and the pixels on the left. Going down, a
position (i, j) of the coarser grid sees the finer one up to (2i, 2j), and is used from there on, so that nothing leaks.
Weights are plain ones: no weight normalisation with data-dependent initialisation as in the authors' code.

B batch, C channels, H height, W width, F filters, S stages.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generative.autoregressive.backbones.causal import (
    Causal,
    ContextBias,
    Stream,
    add_bias,
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
        return x + F.glu(h, 1 if x.dim() == 4 else -1)


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
        from generative.autoregressive.backbones.pixelcnn_pp_stream import PixelCNNPPStream

        return PixelCNNPPStream(self, batch_size, width, context)


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
