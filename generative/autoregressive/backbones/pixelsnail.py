"""PixelSNAIL (Chen et al. 2018): causal convolutions for what is near, causal attention for what is far.

Each block is a few gated residual layers of 2x2 convolutions over the pixels above and on the left, then one attention
over all pixels before: keys and values know the image at their pixel, so that a pixel may look at strictly earlier ones
alone. In sampling, keys and values are computed once a pixel; a pixel's cost grows by one product with those before it.

B batch, C channels, H height, W width, F filters, K keys' size, V values' size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generative.autoregressive.backbones.causal import Causal, PixelStream, channels_last, image_channels, pointwise
from generative.autoregressive.backbones.gated_residual import GatedResidual, concat_elu, stream_block
from generative.autoregressive.backbones.pixelcnn import CausalConv2d
from lab.backbones.registry import register


def coordinates(rows: Tensor, width: int) -> Tensor:
    """Where the pixels of some rows (R,) are, in units of the width: (R, W, 2)."""
    columns = torch.arange(width, device=rows.device)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1) / width


class SnailBlock(nn.Module):
    """Gated residual layers, then attention over the pixels before, joined by one more gate."""

    def __init__(
        self, channels: int, filters: int, residuals: int, keys: int, values: int, dropout: float, context: int
    ) -> None:
        super().__init__()
        self.keys = keys
        self.residuals = nn.ModuleList(
            GatedResidual(filters, 0, upper=False, context=context, dropout=dropout) for _ in range(residuals)
        )
        self.key_value = nn.Conv2d(channels + filters + 2, keys + values, 1)
        self.query = nn.Conv2d(filters + 2, keys, 1)
        self.join = nn.Conv2d(2 * (filters + values), 2 * filters, 1)

    def forward(self, h: Tensor, image: Tensor, where: Tensor, context: Tensor | None) -> Tensor:
        """Features (B, F, H, W) from those before, the image (B, C, H, W) and coordinates (B, 2, H, W)."""
        for residual in self.residuals:
            h = residual(h, None, context)
        key, value = (
            self.key_value(torch.cat([image, h, where], 1))
            .flatten(2)
            .transpose(1, 2)
            .split([self.keys, self.join.in_channels // 2 - h.shape[1]], 2)
        )  # (B, H * W, K) and (B, H * W, V)
        query = self.query(torch.cat([h, where], 1)).flatten(2).transpose(1, 2)
        # The second pixel looks at the first, the third at two: a causal attention between sequences moved by one.
        values = F.scaled_dot_product_attention(query[:, 1:], key[:, :-1], value[:, :-1], is_causal=True)
        attended = F.pad(values, (0, 0, 1, 0)).transpose(1, 2).unflatten(2, h.shape[2:])
        joined = self.join(concat_elu(torch.cat([h, attended], 1)))
        return h + F.glu(joined, 1)


class PixelSNAIL(Causal):
    """See `pixelsnail`."""

    def __init__(
        self,
        channels: int,
        filters: int,
        blocks: int,
        residuals: int,
        keys: int,
        values: int,
        first_kernel: int,
        dropout: float,
        context: int,
    ) -> None:
        super().__init__()
        self.input = CausalConv2d(channels, filters, first_kernel, center=False)
        self.blocks = nn.ModuleList(
            SnailBlock(channels, filters, residuals, keys, values, dropout, context) for _ in range(blocks)
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        where = coordinates(torch.arange(x.shape[2], device=x.device), x.shape[3])
        where = where.to(x.dtype).permute(2, 0, 1).expand(len(x), -1, -1, -1)
        h = channels_last(self.input(x))
        for block in self.blocks:
            h = block(h, x, where, context)
        return h

    def stream(self, batch_size: int, width: int, context: Tensor | None = None) -> PixelStream:
        return PixelSNAILStream(self, batch_size, width, context)


class PixelSNAILStream(PixelStream):
    """Steps of later rows look at more keys, so that no row repeats another."""

    period = None

    def __init__(self, net: PixelSNAIL, batch_size: int, width: int, context: Tensor | None) -> None:
        self.row_index, self.width = -1, width
        self.input = net.input.stream(batch_size, width)
        self.blocks = [SnailBlockStream(block, batch_size, width, context) for block in net.blocks]  # type: ignore[arg-type]
        self.where = net.input.left.new_zeros(1, width, 2)

    def begin_row(self, above: Tensor) -> None:
        if self.row_index >= 0:
            self._remember(self.width - 1, above[:, -1])
        self.row_index += 1
        self.where = coordinates(torch.tensor([self.row_index], device=above.device), self.width).to(above.dtype)
        self.input.begin_row(above)
        for block in self.blocks:
            block.begin_row()

    def step(self, column: int, left: Tensor) -> Tensor:
        if column > 0:
            self._remember(column - 1, left)
        where = self.where[0, column].expand(len(left), -1)
        h = self.input.step(column, left)
        for block in self.blocks:
            h = block.step(column, h, where)
        return h

    def _remember(self, column: int, pixel: Tensor) -> None:
        """Take in the pixel (B, C) that was drawn at `column`."""
        for block in self.blocks:
            block.remember(pixel, self.where[0, column].expand(len(pixel), -1))


class SnailBlockStream:
    """The keys and values of all pixels so far, with room for more, and the rows that the convolutions reach."""

    def __init__(self, block: SnailBlock, batch_size: int, width: int, context: Tensor | None) -> None:
        self.block, self.num_pixels = block, 0
        self.residuals = [stream_block(residual, batch_size, width, context) for residual in block.residuals]  # type: ignore[arg-type]
        self.memory = block.join.weight.new_zeros(batch_size, width, block.key_value.out_channels)  # (B, room, K + V)
        self.h = self.memory[:, 0]

    def begin_row(self) -> None:
        for residual in self.residuals:
            residual.conv1.buffer.begin_row()
            residual.conv2.buffer.begin_row()

    def remember(self, pixel: Tensor, where: Tensor) -> None:
        """Add the key and value of the pixel (B, C) that was drawn after the last step."""
        if self.num_pixels == self.memory.shape[1]:
            self.memory = torch.cat([self.memory, torch.zeros_like(self.memory)], 1)
        self.memory[:, self.num_pixels] = pointwise(self.block.key_value, torch.cat([pixel, self.h, where], 1))
        self.num_pixels += 1

    def step(self, column: int, h: Tensor, where: Tensor) -> Tensor:
        """The block's features (B, F) at `column` from those before it."""
        for residual in self.residuals:
            h = residual.pixel(column, h, None)
        self.h = h
        keys = self.block.keys
        query = pointwise(self.block.query, torch.cat([h, where], 1))
        memory = self.memory[:, : self.num_pixels]
        scores = torch.einsum("bk,bnk->bn", query, memory[..., :keys]) * keys**-0.5
        attended = torch.einsum("bn,bnv->bv", torch.softmax(scores, 1), memory[..., keys:])
        return h + F.glu(pointwise(self.block.join, concat_elu(torch.cat([h, attended], 1))), -1)


@register("pixelsnail", example_shape=(1, 8, 8))
def pixelsnail(
    input_shape: tuple[int, ...],
    *,
    filters: int = 32,
    blocks: int = 2,
    residuals: int = 2,
    keys: int = 16,
    values: int = 32,
    first_kernel: int = 7,
    dropout: float = 0.0,
    context: int = 0,
) -> nn.Module:
    """PixelSNAIL (Chen et al. 2018): gated causal convolutions and causal attention over all pixels before."""
    channels = image_channels(input_shape)
    return PixelSNAIL(channels, filters, blocks, residuals, keys, values, first_kernel, dropout, context)
