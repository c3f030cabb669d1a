"""Plain stacks of convolutions before a perceptron: AlexNet and VGG."""

from __future__ import annotations

from torch import nn

from lab.backbones.layers import Form, Share, initialized, is_small, pooled
from lab.backbones.registry import register
from lab.backbones.staged import Staged


@register("alexnet", example_shape=(3, 32, 32), staged=True)
def alexnet(
    input_shape: tuple[int, ...], *, form: Form = "auto", hidden: tuple[int, ...] | None = None, dropout: Share = 0.5
) -> nn.Module:
    """AlexNet in one column (Krizhevsky et al. 2012; Krizhevsky 2014): 61 M parameters at 224 pixels, 1,000 classes."""
    small = is_small(input_shape, form, least=63)
    stem = (5, 1, 2) if small else (11, 4, 2)
    pool = lambda: nn.MaxPool2d(3, 2, 1 if small else 0)  # noqa: E731
    layers: list[nn.Module] = [
        nn.Conv2d(input_shape[0], 64, stem[0], stem[1], stem[2]),
        nn.ReLU(),
        pool(),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        pool(),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        pool(),
    ]
    strides = (2, 4, 8) if small else (8, 16, 32)
    side = 4 if small else 6
    layers.append(nn.AdaptiveAvgPool2d(side))
    layers += _perceptron(256 * side**2, _hidden(hidden, (512, 512) if small else (4096, 4096)), dropout)
    return initialized(Staged(*layers, ends=dict(zip((2, 5, 12), strides, strict=True))))


def _vgg(
    input_shape: tuple[int, ...],
    stages: tuple[int, ...],
    form: Form,
    batch_norm: bool,
    hidden: tuple[int, ...] | None,
    dropout: float,
) -> nn.Module:
    """Stages of so many 3x3 convolutions of 64, 128, 256, 512 and 512 channels, each before a pooling that halves."""
    small = is_small(input_shape, form, least=32)
    layers: list[nn.Module] = []
    before, ends = input_shape[0], {}
    for stage, (depth, width) in enumerate(zip(stages, (64, 128, 256, 512, 512), strict=True)):
        for _ in range(depth):
            layers.append(nn.Conv2d(before, width, 3, padding=1, bias=not batch_norm))
            layers += [nn.BatchNorm2d(width), nn.ReLU()] if batch_norm else [nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2, ceil_mode=small))
        ends[len(layers) - 1] = 2 ** (stage + 1)
    if small:
        features = 512 * pooled(input_shape[1], 5) * pooled(input_shape[2], 5)
        layers += _perceptron(features, _hidden(hidden, (512,)), dropout)
    else:
        layers.append(nn.AdaptiveAvgPool2d(7))
        layers += _perceptron(512 * 49, _hidden(hidden, (4096, 4096)), dropout)
    return initialized(Staged(*layers, ends=ends))


@register("vgg11", example_shape=(3, 32, 32), staged=True)
def vgg11(
    input_shape: tuple[int, ...],
    *,
    form: Form = "auto",
    batch_norm: bool = True,
    hidden: tuple[int, ...] | None = None,
    dropout: Share = 0.5,
) -> nn.Module:
    """VGG-11 (Simonyan and Zisserman 2015, configuration A): 133 M parameters at 224 pixels, 1,000 classes."""
    return _vgg(input_shape, (1, 1, 2, 2, 2), form, batch_norm, hidden, dropout)


@register("vgg13", example_shape=(3, 32, 32), staged=True)
def vgg13(
    input_shape: tuple[int, ...],
    *,
    form: Form = "auto",
    batch_norm: bool = True,
    hidden: tuple[int, ...] | None = None,
    dropout: Share = 0.5,
) -> nn.Module:
    """VGG-13 (Simonyan and Zisserman 2015, configuration B): 133 M parameters at 224 pixels, 1,000 classes."""
    return _vgg(input_shape, (2, 2, 2, 2, 2), form, batch_norm, hidden, dropout)


@register("vgg16", example_shape=(3, 32, 32), staged=True)
def vgg16(
    input_shape: tuple[int, ...],
    *,
    form: Form = "auto",
    batch_norm: bool = True,
    hidden: tuple[int, ...] | None = None,
    dropout: Share = 0.5,
) -> nn.Module:
    """VGG-16 (Simonyan and Zisserman 2015, configuration D): 138 M parameters at 224 pixels, 1,000 classes."""
    return _vgg(input_shape, (2, 2, 3, 3, 3), form, batch_norm, hidden, dropout)


@register("vgg19", example_shape=(3, 32, 32), staged=True)
def vgg19(
    input_shape: tuple[int, ...],
    *,
    form: Form = "auto",
    batch_norm: bool = True,
    hidden: tuple[int, ...] | None = None,
    dropout: Share = 0.5,
) -> nn.Module:
    """VGG-19 (Simonyan and Zisserman 2015, configuration E): 144 M parameters at 224 pixels, 1,000 classes."""
    return _vgg(input_shape, (2, 2, 4, 4, 4), form, batch_norm, hidden, dropout)


def _hidden(hidden: tuple[int, ...] | None, default: tuple[int, ...]) -> tuple[int, ...]:
    return default if hidden is None else hidden


def _perceptron(before: int, hidden: tuple[int, ...], dropout: float) -> list[nn.Module]:
    """Hidden layers of rectified units, with dropout before each."""
    layers: list[nn.Module] = [nn.Flatten()]
    for after in hidden:
        layers += [nn.Dropout(dropout), nn.Linear(before, after), nn.ReLU()]
        before = after
    return layers
