"""Every private name of torch that the lab uses, under a public one.

An upgrade may take them away without a word; tests/lab/engine/test_torch_private.py says which one it took.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils import stateless
from torch.utils._python_dispatch import TorchDispatchMode

# One call for a list of tensors, where a loop over them would take longer than the arithmetic.
foreach_copy_ = torch._foreach_copy_
foreach_add_ = torch._foreach_add_
foreach_lerp_ = torch._foreach_lerp_
foreach_norm = torch._foreach_norm
foreach_sub = torch._foreach_sub

fused_adam_ = torch._fused_adam_
"""the kernel behind torch.optim.Adam(fused=True), without the Python around it"""

reparametrize_module = stateless._reparametrize_module
"""torch.func.functional_call as a context: it lets a function use a module with other parameters"""

DispatchMode = TorchDispatchMode
"""a context whose `__torch_dispatch__` sees every operator that runs; in torch.inference_mode() as it was called:
conv2d, max_pool2d, lstm_cell, scaled_dot_product_attention"""

cpu_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""what scaled_dot_product_attention is on a CPU"""

to_copy = torch.ops.aten._to_copy.default
"""what `Tensor.to(dtype)` is in a recorded graph"""

DIRECT_SOFTMAX: dict[Any, Callable[..., Any]] = {
    torch.ops.aten._softmax.default: torch._softmax,
    torch.ops.aten._log_softmax.default: torch._log_softmax,
    torch.ops.aten._log_softmax_backward_data.default: torch._log_softmax_backward_data,
}
"""what softmax and log_softmax are in a recorded graph, with the entries that take half the time to call"""


def writes_arguments(target: Any) -> bool:
    """Whether what a graph calls is an operator of torch that writes into its arguments, as `add_` does."""
    return isinstance(target, type(to_copy)) and bool(target._schema.is_mutable)


def bound_arguments(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of an operator of torch by their names, with the defaults of those that were left out."""
    defaults = {argument.name: argument.default_value for argument in target._schema.arguments}
    return {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}
