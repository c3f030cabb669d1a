"""Residual networks: ResNet in its plain, first and identity-mapping forms, ResNeXt, wide ResNet, stochastic depth.

He et al. 2016 (a: Deep residual learning; b: Identity mappings), Xie et al. 2017, Zagoruyko and Komodakis 2016, Huang
et al. 2016. B batch, C channels.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor, nn

from lab.backbones.layers import DropPath, Form, Share, conv_norm, initialized, is_small
from lab.backbones.registry import register
from lab.backbones.staged import Staged

Order = Literal["post", "pre", "plain"]
"""post: normalised after each convolution and rectified after the sum (He et al. 2016a); pre: both before each
convolution, the sum as it is (2016b); plain: post without shortcuts, to compare residual networks with"""


class Widths(NamedTuple):
    """Of a block: channels of its inner convolutions and of its output, and groups of the 3x3 one."""

    inner: int
    outer: int
    groups: int = 1


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 ones, beside a shortcut."""

    def __init__(
        self, before: int, widths: Widths, stride: int, bottleneck: bool, order: Order, drop_path: float
    ) -> None:
        super().__init__()
        inner, outer, groups = widths
        kernels = [(before, inner, 1, 1, 1), (inner, inner, 3, stride, groups), (inner, outer, 1, 1, 1)]
        if not bottleneck:
            kernels = [(before, inner, 3, stride, groups), (inner, outer, 3, 1, 1)]
        self.order: Order = order
        layers: list[nn.Module] = []
        for i, (wide, narrow, kernel, step, parts) in enumerate(kernels):
            conv, norm = conv_norm(wide, narrow, kernel, step, parts)
            if order == "pre":
                layers += [nn.BatchNorm2d(wide), nn.ReLU(), conv]
            else:
                layers += [conv, norm] if i == len(kernels) - 1 else [conv, norm, nn.ReLU()]
        self.first = nn.Sequential(*layers[:2]) if order == "pre" else nn.Identity()
        self.branch = nn.Sequential(*layers[2:]) if order == "pre" else nn.Sequential(*layers)
        self.drop_path = DropPath(drop_path)
        self.shortcut: nn.Module = nn.Identity()
        if order != "plain" and (stride != 1 or before != outer):
            conv, norm = conv_norm(before, outer, 1, stride)
            self.shortcut = conv if order == "pre" else nn.Sequential(conv, norm)
        self.last = nn.Identity() if order == "pre" else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.order == "plain":
            out: Tensor = self.last(self.branch(h))
            return out
        changes_shape = not isinstance(self.shortcut, nn.Identity)
        out = self.last(self.shortcut(h if changes_shape else x) + self.drop_path(self.branch(h)))
        return out


def residual_net(
    input_shape: tuple[int, ...],
    depths: tuple[int, ...],
    *,
    bottleneck: bool,
    form: Form,
    order: Order,
    drop_path: float,
    width: int = 64,
    groups: int = 1,
    inner: int = 64,
    expansion: int = 4,
    stem: int = 64,
) -> nn.Module:
    """Stages of blocks, each at half the size and twice the channels of the one before, then the mean of the map.

    Args:
        depths: blocks in each stage.
        bottleneck: whether blocks are of three convolutions.
        order: how normalisation, rectification and shortcuts lie.
        drop_path: with what probability the last block is left out; earlier ones in proportion to their depth.
        width: output channels of the first stage, of bottlenecks before `expansion`.
        inner: channels of the first stage's inner convolutions, `groups` of them in bottlenecks.
        stem: channels of the first convolution.
    """
    small = is_small(input_shape, form, least=32)
    layers: list[nn.Module] = conv_norm(input_shape[0], stem, 3 if small else 7, 1 if small else 2)
    layers = layers[:1] if order == "pre" else [*layers, nn.ReLU()]
    layers += [] if small else [nn.MaxPool2d(3, 2, 1)]
    stride, before, ends, block = (1 if small else 4), stem, {}, 0
    for stage, depth in enumerate(depths):
        outer = width * 2**stage * (expansion if bottleneck else 1)
        for place in range(depth):
            step = 2 if stage and not place else 1
            share = drop_path * (block + 1) / sum(depths)
            widths = Widths(inner * 2**stage, outer, groups)
            layers.append(Block(before, widths, step, bottleneck, order, share))
            before, stride, block = outer, stride * step, block + 1
        ends[len(layers) - 1] = stride
    if order == "pre":
        ends[len(layers) + 1] = ends.pop(len(layers) - 1)  # of the last stage, normalised and rectified
        layers += [nn.BatchNorm2d(before), nn.ReLU()]
    return initialized(Staged(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), ends=ends))


@register("resnet18", example_shape=(3, 32, 32), staged=True)
def resnet18(
    input_shape: tuple[int, ...], *, form: Form = "auto", order: Order = "post", drop_path: Share = 0.0
) -> nn.Module:
    """ResNet-18 (He et al. 2016): 11.7 M parameters with 1,000 classes."""
    return residual_net(input_shape, (2, 2, 2, 2), bottleneck=False, form=form, order=order, drop_path=drop_path)


@register("resnet34", example_shape=(3, 32, 32), staged=True)
def resnet34(
    input_shape: tuple[int, ...], *, form: Form = "auto", order: Order = "post", drop_path: Share = 0.0
) -> nn.Module:
    """ResNet-34 (He et al. 2016): 21.8 M parameters with 1,000 classes."""
    return residual_net(input_shape, (3, 4, 6, 3), bottleneck=False, form=form, order=order, drop_path=drop_path)


@register("resnet50", example_shape=(3, 32, 32), staged=True)
def resnet50(
    input_shape: tuple[int, ...], *, form: Form = "auto", order: Order = "post", drop_path: Share = 0.0
) -> nn.Module:
    """ResNet-50 (He et al. 2016): bottlenecks, 25.6 M parameters with 1,000 classes."""
    return residual_net(input_shape, (3, 4, 6, 3), bottleneck=True, form=form, order=order, drop_path=drop_path)


@register("resnet101", example_shape=(3, 32, 32), staged=True)
def resnet101(
    input_shape: tuple[int, ...], *, form: Form = "auto", order: Order = "post", drop_path: Share = 0.0
) -> nn.Module:
    """ResNet-101 (He et al. 2016): bottlenecks, 44.5 M parameters with 1,000 classes."""
    return residual_net(input_shape, (3, 4, 23, 3), bottleneck=True, form=form, order=order, drop_path=drop_path)


@register("resnet152", example_shape=(3, 32, 32), staged=True)
def resnet152(
    input_shape: tuple[int, ...], *, form: Form = "auto", order: Order = "post", drop_path: Share = 0.0
) -> nn.Module:
    """ResNet-152 (He et al. 2016): bottlenecks, 60.2 M parameters with 1,000 classes."""
    return residual_net(input_shape, (3, 8, 36, 3), bottleneck=True, form=form, order=order, drop_path=drop_path)


@register("resnext50", example_shape=(3, 32, 32), staged=True)
def resnext50(
    input_shape: tuple[int, ...],
    *,
    cardinality: int = 32,
    group_width: int = 4,
    form: Form = "auto",
    order: Order = "post",
    drop_path: Share = 0.0,
) -> nn.Module:
    """ResNeXt-50 32x4d (Xie et al. 2017): 3x3 convolutions in groups, 25.0 M parameters with 1,000 classes."""
    return residual_net(
        input_shape,
        (3, 4, 6, 3),
        bottleneck=True,
        form=form,
        order=order,
        drop_path=drop_path,
        groups=cardinality,
        inner=cardinality * group_width,
    )


@register("wide_resnet", example_shape=(3, 32, 32), staged=True)
def wide_resnet(
    input_shape: tuple[int, ...],
    *,
    depth: int = 28,
    width: int = 2,
    form: Form = "small",
    drop_path: Share = 0.0,
) -> nn.Module:
    """WRN-depth-width (Zagoruyko and Komodakis 2016): 3 stages, normalised first; 28-10 has 36.5 M parameters."""
    if (depth - 4) % 6:
        raise ValueError(f"depth={depth} is none of 10, 16, 22, 28, 34, 40, ... (6 n + 4)")
    blocks, channels = ((depth - 4) // 6,) * 3, 16 * width
    return residual_net(
        input_shape,
        blocks,
        bottleneck=False,
        form=form,
        order="pre",
        drop_path=drop_path,
        width=channels,
        inner=channels,
        stem=16,
    )


@register("resnet_cifar", example_shape=(3, 32, 32), staged=True)
def resnet_cifar(
    input_shape: tuple[int, ...],
    *,
    depth: int = 20,
    form: Form = "small",
    order: Order = "post",
    drop_path: Share = 0.0,
) -> nn.Module:
    """ResNet-20, 32, 44, 56, 110 for CIFAR (He et al. 2016): 3 stages from 16 channels; 110 has 1.7 M parameters."""
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth={depth} is none of 8, 14, 20, 32, 44, 56, 110, ... (6 n + 2)")
    return residual_net(
        input_shape,
        ((depth - 2) // 6,) * 3,
        bottleneck=False,
        form=form,
        order=order,
        drop_path=drop_path,
        width=16,
        inner=16,
        stem=16,
    )
