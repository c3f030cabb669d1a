"""A canary for upgrades of torch: which private name is gone, and that those that are there do what the lab needs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "lab" / "engine" / "torch_private.py"
OPERATOR = torch.ops.aten.add_.Tensor
EXAMPLES = {"torch": torch, "stateless": torch.nn.utils.stateless, "target": OPERATOR}
"""what stands for the first part of a dotted name"""


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split(".")[1:])


def dotted_names(path: Path) -> Iterator[str]:
    """`torch.nn.functional.relu` and the like, as they stand in a file; what is imported, with its module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name):
            yield ".".join([node.id, *reversed(parts)])


def aliases(path: Path) -> set[str]:
    """The names by which a file calls torch, Lightning and what it takes from them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {
                (alias.asname or alias.name).split(".")[0] for alias in node.names if alias.name.startswith(LIBRARIES)
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(LIBRARIES):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("torch.ops"):
            names |= {ast.unparse(target) for target in node.targets}
    return names


LIBRARIES = ("torch", "lightning")
PRIVATE = sorted({name for name in dotted_names(FILE) if is_private(name)})


@pytest.mark.parametrize("name", PRIVATE)
def test_torch_has_the_private_names_that_the_lab_uses(name: str) -> None:
    root, *parts = name.split(".")
    try:
        reduce(getattr, parts, EXAMPLES[root])
    except AttributeError:
        pytest.fail(f"torch {torch.__version__} has no {name} any more: lab/engine/torch_private.py must do without.")


@pytest.mark.slow
def test_private_names_stand_in_one_file() -> None:
    assert len(PRIVATE) > 8
    elsewhere = []
    for package in ("lab", "agents", "generative", "cluster"):
        for path in sorted((ROOT / package).rglob("*.py")):
            roots = {*LIBRARIES, *aliases(path)}
            elsewhere += [
                f"{path.relative_to(ROOT)}: {name}"
                for name in dotted_names(path)
                if is_private(name) and (name.split(".")[0] in roots or name.endswith("._schema"))
            ]
    assert [line for line in elsewhere if not line.startswith("lab/engine/torch_private.py")] == []


def test_lists_of_tensors_change_in_one_call() -> None:
    from lab.engine.torch_private import foreach_add_, foreach_copy_, foreach_lerp_

    tensors, others = [torch.zeros(2), torch.zeros(3, 1)], [torch.full((2,), 4.0), torch.full((3, 1), 8.0)]
    foreach_copy_(tensors, others)
    assert [t.tolist() for t in tensors] == [t.tolist() for t in others]
    foreach_add_(tensors, others, alpha=-0.5)
    assert tensors[0].tolist() == [2.0, 2.0]
    foreach_lerp_(tensors, others, 0.25)
    assert tensors[0].tolist() == [2.5, 2.5]


def test_fused_adam_is_the_kernel_of_torch() -> None:
    from lab.engine.torch_private import fused_adam_

    p, gradient = torch.tensor([1.0, -2.0], requires_grad=True), torch.tensor([0.5, 3.0])
    optimizer = torch.optim.Adam([p], lr=0.1, fused=True)
    p.grad = gradient
    optimizer.step()
    own, step = torch.tensor([1.0, -2.0]), torch.ones(())
    options = {"beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "eps": 1e-8, "amsgrad": False, "maximize": False}
    fused_adam_([own], [gradient], [torch.zeros(2)], [torch.zeros(2)], [], [step], lr=0.1, **options)
    assert torch.equal(own, p.detach())


def test_a_module_computes_with_other_parameters_for_a_while() -> None:
    from lab.engine.torch_private import reparametrize_module

    net = nn.Linear(2, 1, bias=False)
    before = net.weight
    with reparametrize_module(net, {"weight": torch.ones(1, 2)}):
        assert net(torch.tensor([3.0, 4.0])).tolist() == [7.0]
    assert net.weight is before


def test_direct_softmax_is_that_of_recordings() -> None:
    from lab.engine.torch_private import DIRECT_SOFTMAX

    x = torch.randn(3, 4)
    arguments = {3: (x, -1, False), 4: (x, x.log_softmax(-1), -1, torch.float32)}
    for recorded, direct in DIRECT_SOFTMAX.items():
        inputs = arguments[4 if "backward" in str(recorded) else 3]
        assert torch.equal(direct(*inputs), recorded(*inputs))


def test_operators_that_write_are_known() -> None:
    from lab.engine.torch_private import to_copy, writes_arguments

    assert [writes_arguments(target) for target in (OPERATOR, torch.ops.aten.mm.out)] == [True, True]
    assert [writes_arguments(target) for target in (to_copy, torch.ops.aten.add.Tensor, torch.add)] == [False] * 3
    assert to_copy(torch.ones(2), dtype=torch.float64).dtype == torch.float64


def test_operators_are_seen_as_they_were_called_with_their_arguments_by_name() -> None:
    from lab.engine.torch_private import DispatchMode, bound_arguments, cpu_attention

    calls = {}

    class Watch(DispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls[func.overloadpacket] = bound_arguments(func, args, kwargs or {})
            return func(*args, **(kwargs or {}))

    x = torch.zeros(1, 2, 4, 4)
    with torch.inference_mode(), Watch():
        nn.MaxPool2d(2)(nn.Conv2d(2, 1, 3, stride=2, padding=1)(x))
    conv, pool = calls[torch.ops.aten.conv2d], calls[torch.ops.aten.max_pool2d]
    assert (conv["stride"], conv["padding"], conv["groups"]) == ([2, 2], [1, 1], 1)
    assert (pool["kernel_size"], pool["dilation"], pool["ceil_mode"]) == ([2, 2], [1, 1], False)
    with Watch():
        torch.nn.functional.scaled_dot_product_attention(x, x, x)
    assert cpu_attention in calls
