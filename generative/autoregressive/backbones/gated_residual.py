"""The gated residual block of PixelCNN++ and PixelSNAIL (Salimans et al. 2017), on images and one pixel at a time.

B batch, C channels, H height, W width, F filters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generative.autoregressive.backbones.causal import ContextBias, RowBuffer, add_bias, bias_of, pointwise

Conv = Callable[[Tensor], Tensor]


def concat_elu(x: Tensor) -> Tensor:
    """ELU of x and of -x, one after the other: dimension 1 of images, the last of rows and pixels."""
    return F.elu(torch.cat([x, -x], 1 if x.dim() == 4 else -1))


class ShiftedConv2d(nn.Conv2d):
    """A convolution over the current row and those above; it reads `right` columns on the right, too."""

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
        """The block on images, rows or pixels, with convolutions for those."""
        h = conv1(concat_elu(x))
        if self.skip is not None and skip is not None:
            active = concat_elu(skip)
            h = h + (self.skip(active) if x.dim() == 4 else pointwise(self.skip, active))
        h = add_bias(conv2(self.dropout(concat_elu(h))), bias)
        return x + F.glu(h, 1 if x.dim() == 4 else -1)


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
    """A block, its bias from the context, and the streams of its convolutions."""

    block: GatedResidual
    bias: Tensor | None
    conv1: ShiftedStream
    conv2: ShiftedStream

    def row(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """The block's next row (B, W, F) of rows x and skip."""
        return self.block.run(x, skip, self.bias, self.conv1.row, self.conv2.row)

    def pixel(self, column: int, x: Tensor, skip: Tensor | None) -> Tensor:
        """The block's pixel (B, F) at `column` of pixels x and skip."""
        conv1, conv2 = (partial(conv.pixel, column) for conv in (self.conv1, self.conv2))
        return self.block.run(x, skip, self.bias, conv1, conv2)


def stream_block(block: GatedResidual, batch_size: int, width: int, context: Tensor | None) -> BlockStream:
    """Begin a batch of images of `width` columns."""
    conv1, conv2 = (ShiftedStream(conv, batch_size, width) for conv in (block.conv1, block.conv2))
    return BlockStream(block, block.context(context), conv1, conv2)
