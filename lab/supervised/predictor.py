"""A trained net for use without the lab: what it takes is as it is in the data, what it gives are predictions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lab.data.spec import DataSpec, Statistics, TensorSpec
from lab.data.targets import Classes, MultiLabel, RealValues
from lab.export import Exportable, Input

_EXAMPLE = '''"""Predicts with predictor.onnx; needs numpy and onnxruntime."""

from pathlib import Path

import numpy as np
import onnxruntime

predictor = onnxruntime.InferenceSession(Path(__file__).with_name("predictor.onnx"))
{inputs}
(prediction,) = predictor.run(None, {{"{name}": {name}}})
{outputs}
'''
_IMAGE = "image = np.random.default_rng(0).random((1, {shape}), np.float32)  # pixels from 0 to 1"
_ROW = """columns = {columns}
row = np.array([[{row}]], np.float32)  # one number for each column"""
_OUTPUTS = {
    Classes: """names = {names}
print("class", names[int(prediction[0].argmax())])""",
    MultiLabel: """names = {names}
print("labels", dict(zip(names, prediction[0].tolist())))""",
    RealValues: """names = {names}
print("prediction", *prediction[0], *names)""",
}


class Predictor(nn.Module):
    """Predictions (B, ...) of inputs (B, ...) as they are in the data, where those were standardized for learning."""

    mean: Tensor  # (F,)
    scale: Tensor

    def __init__(self, net: Any, statistics: Statistics | None) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(statistics.mean if statistics else 0.0))
        self.register_buffer("scale", torch.tensor(statistics.scale if statistics else 1.0))

    def forward(self, x: Tensor) -> Tensor:
        predictions: Tensor = self.net.task.predictions(self.net((x - self.mean) / self.scale))
        return predictions


def exportable(net: Any, spec: DataSpec) -> Exportable:
    """What `lab export` writes of a supervised net."""
    inputs, target, statistics = spec.inputs, spec.target, spec.statistics
    assert isinstance(inputs, TensorSpec)
    assert isinstance(target, Classes | MultiLabel | RealValues)
    names, about = list(target.names), {}
    if len(inputs.shape) == 3:
        name, lines = "image", _IMAGE.format(shape=", ".join(map(str, inputs.shape)))
    else:
        assert statistics is not None
        columns, row = list(statistics.names), ", ".join(f"{value:.6g}" for value in statistics.mean)
        name, lines = "row", _ROW.format(columns=columns, row=row)
        about["columns"] = columns
    about[{Classes: "classes", MultiLabel: "labels", RealValues: "values"}[type(target)]] = names
    example = _EXAMPLE.format(inputs=lines, name=name, outputs=_OUTPUTS[type(target)].format(names=names))
    return Exportable("predictor", Predictor(net, statistics), {name: Input(inputs)}, ("prediction",), example, about)
