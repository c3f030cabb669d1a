"""Networks for use without the lab: as a `torch.export` program and as ONNX, checked to give equal outputs.

    FOLDER/NAME.pt2     torch.export.load("NAME.pt2").module()(...)
    FOLDER/NAME.onnx    any ONNX runtime
    FOLDER/model.json   inputs and outputs: names, shapes, types; what was compared
    FOLDER/example.py   runs the ONNX file; needs numpy and onnxruntime

The batch size stays free. (TorchScript is not written: torch itself has given it up for torch.export.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lab.data.spec import TensorSpec
from lab.errors import Failure, UserError
from lab.quiet import quiet
from lab.runs.files import disk_failure, write_atomic

TOLERANCE = 1e-4
_BATCHES = (1, 3, 8)


class Input(NamedTuple):
    """One input of a network: what it is like without its batch axis, and which axis that is."""

    spec: TensorSpec
    batch_axis: int = 0

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """Random values (B, ...) of the type and within the bounds."""
        shape = list(self.spec.shape)
        shape.insert(self.batch_axis, batch)
        if self.spec.dtype in (torch.uint8, torch.int64):
            return torch.randint(0, int(self.spec.high) + 1, shape, generator=generator).to(self.spec.dtype)
        return torch.randn(shape, generator=generator).clamp(self.spec.low, self.spec.high).to(self.spec.dtype)


class Exportable(NamedTuple):
    """A network of tensors in, tensors out."""

    name: str
    network: nn.Module
    inputs: dict[str, Input]
    outputs: tuple[str, ...]
    example: str
    """Python that runs `NAME.onnx`, which lies beside it"""
    about: dict[str, Any] = {}
    """more for `model.json`"""

    def draw(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(each.draw(batch, generator) for each in self.inputs.values())


def export(what: Exportable, folder: Path) -> dict[str, Any]:
    """Write a network into a folder and check what was written; returns the content of `model.json`.

    Raises:
        UserError: when the packages of the extra `export` are missing.
        Failure: when the network cannot be exported, gives other outputs there, or the folder cannot be written.
    """
    _needs()
    network = what.network.eval().cpu()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_failure(folder, error) from error
    batch = torch.export.Dim("batch", min=1, max=2**16)
    shapes = tuple({each.batch_axis: batch} for each in what.inputs.values())
    with torch.no_grad(), quiet("onnxscript", "torch.onnx", "torch.export"):
        try:
            program = torch.export.export(
                network, what.draw(2), dynamic_shapes=(shapes,) if _variadic(network) else shapes
            )
            torch.export.save(program, folder / f"{what.name}.pt2")
            torch.onnx.export(
                program,
                f=str(folder / f"{what.name}.onnx"),
                input_names=list(what.inputs),
                output_names=list(what.outputs),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except OSError as error:
            raise disk_failure(folder, error) from error
        except Exception as error:  # torch raises many kinds
            reason = " ".join(str(error).split())[:300]
            raise Failure(f"the {what.name} cannot be exported: {type(error).__name__}: {reason}") from error
        differences = check(what, folder)
    told = {
        "name": what.name,
        "inputs": {name: _told(each) for name, each in what.inputs.items()},
        "outputs": list(what.outputs),
        "largest_difference": differences,
        **what.about,
    }
    write_atomic(folder / "model.json", json.dumps(told, indent=2) + "\n")
    write_atomic(folder / "example.py", what.example)
    return told


def check(what: Exportable, folder: Path) -> dict[str, float]:
    """The largest difference of either file's outputs from the network's own, on random inputs of several batch sizes.

    Raises Failure when it is more than rounding.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / f"{what.name}.onnx", options, providers=["CPUExecutionProvider"])
    program: Any = torch.export.load(folder / f"{what.name}.pt2").module()
    largest = {"torch.export": 0.0, "onnx": 0.0}
    for batch in _BATCHES:
        inputs = what.draw(batch, seed=batch)
        wanted = _tuple(what.network(*inputs))
        arrays = {name: tensor.numpy() for name, tensor in zip(what.inputs, inputs, strict=True)}
        given = {
            "torch.export": [t.numpy() for t in _tuple(program(*inputs))],
            "onnx": session.run(None, arrays),
        }
        for form, outputs in given.items():
            for name, ours, theirs in zip(what.outputs, wanted, outputs, strict=True):
                if ours.shape != theirs.shape:
                    raise Failure(f"{form} gives {name} of shape {theirs.shape}, the network {tuple(ours.shape)}.")
                scale = max(1.0, float(ours.abs().max()))
                difference = float(np.abs(ours.numpy().astype(np.float64) - theirs).max()) / scale
                if not difference <= TOLERANCE:
                    raise Failure(f"{form} gives another {name} than the network: they differ by {difference:.2g}.")
                largest[form] = max(largest[form], difference)
    return largest


def _told(each: Input) -> dict[str, Any]:
    shape: list[Any] = list(each.spec.shape)
    shape.insert(each.batch_axis, "batch")
    return {"shape": shape, "dtype": str(each.spec.dtype).removeprefix("torch.")}


def _tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _variadic(network: nn.Module) -> bool:
    """Whether `forward` takes `*inputs`, for which torch.export wants the shapes in one more pair of brackets."""
    return bool(network.forward.__code__.co_flags & 0x04)


def _needs() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"lab export needs {error.name}: pip install 'lab[export]'.") from None
