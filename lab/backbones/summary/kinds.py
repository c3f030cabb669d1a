"""What a layer is called in a table: its class and its main arithmetic, `Conv2d 7x7/2 pad 3`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

_WHOLE = (nn.MultiheadAttention,)
"""layers that compute with the weights of their parts, and do not call them"""

PASSES_ON = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
"""layers that hand on their input when a network is evaluated"""


def is_layer(module: nn.Module) -> bool:
    """Whether a module has no parts that are called."""
    parts = [name for name, _ in module.named_children() if name != "parametrizations"]
    return isinstance(module, _WHOLE) or not parts


def kind_of(module: nn.Module) -> str:
    """The class of a layer with the numbers that matter."""
    words = [type(module).__name__.removeprefix("Parametrized"), *_numbers(module)]
    return " ".join(word for word in words if word)


def times(sizes: Sequence[object]) -> str:
    """`3x32x32`."""
    return "x".join(map(str, sizes))


def _numbers(module: nn.Module) -> list[str]:
    match module:
        case nn.Linear():
            return [f"{module.in_features} -> {module.out_features}"]
        case nn.Embedding():
            return [f"{module.num_embeddings} x {module.embedding_dim}"]
        case nn.RNNBase():
            layers = f"{module.num_layers} layers" if module.num_layers > 1 else ""
            return [f"{module.input_size} -> {module.hidden_size}", layers, "both ways" if module.bidirectional else ""]
        case nn.RNNCellBase():
            return [f"{module.input_size} -> {module.hidden_size}"]
        case nn.MultiheadAttention():
            return [f"{module.num_heads} heads"]
        case nn.GroupNorm():
            return [f"{module.num_groups} groups"]
    output_size = getattr(module, "output_size", None)
    if getattr(module, "kernel_size", None) is None:
        return [] if output_size is None else [times(_pair(output_size))]
    return _window(module)


def _window(module: nn.Module) -> list[str]:
    """Kernel, stride, padding, dilation and groups of a convolution or pooling."""
    kernel = _pair(module.kernel_size)
    stride, dilation = (_pair(getattr(module, name, 1), len(kernel)) for name in ("stride", "dilation"))
    padding, groups = getattr(module, "padding", 0), getattr(module, "groups", 1)
    pad = [padding] if isinstance(padding, str) else _pair(padding, len(kernel))
    return [
        times(kernel) + ("" if set(stride) == {1} else f"/{_short(stride)}"),
        "" if set(pad) == {0} else f"pad {_short(pad)}",
        "" if set(dilation) == {1} else f"dilation {_short(dilation)}",
        "" if groups == 1 else f"groups {groups}",
    ]


def _pair(value: object, length: int = 2) -> list[object]:
    """One number stands for both axes."""
    return list(value) if isinstance(value, list | tuple) else [value] * length


def _short(values: Sequence[object]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))
