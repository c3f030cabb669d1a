"""A trained net for use without the lab: what it takes is as it is in the data, what it gives are predictions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lab.data.spec import DataSpec, Statistics, TensorSpec, TreeSpec
from lab.data.targets import Classes, MultiLabel, RealValues, Sentence, Tags
from lab.errors import UserError
from lab.export import Exportable, Input

_EXAMPLE = '''"""Predicts with predictor.onnx; needs numpy and onnxruntime."""

{imports}from pathlib import Path

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
    Tags: """names = {names}
print("tags", *(names[tag] for tag in prediction[0] if tag >= 0))""",
    Sentence: """symbols = {names}
end = [*prediction[0].tolist(), 3].index(3)  # the number of </s>
print("told", *(symbols[token] for token in prediction[0][:end]))""",
}
_TOKENS = """about = json.loads(Path(__file__).with_name("model.json").read_text())
numbers = {{symbol: number for number, symbol in enumerate(about["vocabulary"])}}
words = ["some", "words"]  # as the training text is cut
tokens = np.zeros((1, {shape}), np.int64)  # 0 behind the end
tokens[0, : len(words){first}] = [numbers.get(word, 1) for word in words]"""
_SEQUENCE = "sequence = np.random.default_rng(0).random((1, {shape}), np.float32)"
_NAMES = {Classes: "classes", MultiLabel: "labels", RealValues: "values", Tags: "tags", Sentence: "told"}


class Predictor(nn.Module):
    """Predictions (B, ...) of inputs (B, ...) as they are in the data, where those were standardized for learning."""

    mean: Tensor  # (F,)
    scale: Tensor

    def __init__(self, net: Any, statistics: Statistics | None) -> None:
        super().__init__()
        self.net = net
        self.is_standardized = statistics is not None
        if statistics is not None:
            self.register_buffer("mean", torch.tensor(statistics.mean))
            self.register_buffer("scale", torch.tensor(statistics.scale))

    def forward(self, x: Tensor) -> Tensor:
        if self.is_standardized:
            x = (x - self.mean) / self.scale
        predictions: Tensor = self.net.task.predictions(self.net(x))
        return predictions


def exportable(net: Any, spec: DataSpec) -> Exportable:
    """What `lab export` writes of a supervised net."""
    inputs, target = spec.inputs, spec.target
    if isinstance(inputs, TreeSpec):
        raise UserError(
            "lab export writes no network over trees, whose operators are others for each tree; lab predict reads them."
        )
    assert isinstance(inputs, TensorSpec)
    assert isinstance(target, Classes | MultiLabel | RealValues | Tags | Sentence)
    names = list(target.vocabulary.symbols if isinstance(target, Sentence) else target.names)
    name, lines, about = _described(inputs, spec)
    about[_NAMES[type(target)]] = names
    example = _EXAMPLE.format(
        imports="import json\n" if spec.vocabulary else "",
        inputs=lines,
        name=name,
        outputs=_OUTPUTS[type(target)].format(names=names),
    )
    network = Predictor(net, spec.statistics)
    return Exportable("predictor", network, {name: Input(inputs)}, ("prediction",), example, about)


def _described(inputs: TensorSpec, spec: DataSpec) -> tuple[str, str, dict[str, Any]]:
    """What an input is called, the lines of the example that make one, and what is told of it."""
    shape = ", ".join(map(str, inputs.shape))
    if spec.vocabulary is not None:
        vocabulary = spec.vocabulary
        about = {
            "vocabulary": list(vocabulary.symbols),
            "unit": vocabulary.unit,
            "lower": vocabulary.lower,
            "punctuation": vocabulary.punctuation,
        }
        return "tokens", _TOKENS.format(shape=shape, first=", 0" if len(inputs.shape) == 2 else ""), about
    if len(inputs.shape) == 3:
        return "image", _IMAGE.format(shape=shape), {}
    if spec.statistics is None:
        return "sequence", _SEQUENCE.format(shape=shape), {}
    columns, row = list(spec.statistics.names), ", ".join(f"{value:.6g}" for value in spec.statistics.mean)
    return "row", _ROW.format(columns=columns, row=row), {"columns": columns}
