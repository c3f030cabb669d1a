"""Observations for predictions: JSON, JSON lines, or a .npy array, from files or standard input."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.data import npz
from lab.data.items import Item, content
from lab.data.spec import TensorSpec
from lab.errors import UserError, shortened

Inputs = TensorSpec | dict[str, TensorSpec]


def observation_items(sources: Sequence[str], inputs: Inputs) -> Iterator[Item]:
    """Observations as a policy takes them, of one or of several in each source.

    Raises UserError, with the source's name, for what is no such observation.
    """
    for source in sources:
        several = _read(source, inputs)
        if not len(several):
            raise UserError(f"{source!r} holds no observations.")
        for i, value in enumerate(several):
            name = source if len(several) == 1 else f"{source}[{i}]"
            if not isinstance(inputs, dict):
                yield Item(name, _tensor(value, inputs, name))
                continue
            if not isinstance(value, dict) or set(value) != set(inputs):
                raise UserError(f"{name}: an observation of this agent is an object with {', '.join(sorted(inputs))}.")
            yield Item(name, {key: _tensor(value[key], each, f"{name}, {key}") for key, each in inputs.items()})


def _read(source: str, inputs: Inputs) -> Sequence[Any]:
    """The observations in a source, one after the other."""
    raw = content(source)
    if raw[:6] == b"\x93NUMPY":
        try:
            array = npz.read_array(raw)
        except npz.DAMAGES as error:
            raise UserError(f"{source!r} is damaged or no .npy of plain numbers ({error}).") from None
        return _one_or_more(array, inputs)
    try:
        text = raw.decode("utf-8-sig").strip()
        try:
            return _one_or_more(json.loads(text), inputs)
        except json.JSONDecodeError:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        raise UserError(f"{source!r} holds no observations: neither JSON, a JSON value a line, nor a .npy.") from None


def _one_or_more(value: Any, inputs: Inputs) -> Sequence[Any]:
    if isinstance(inputs, dict):
        return value if isinstance(value, list) else [value]
    depth, part = 0, value
    while isinstance(part, list | np.ndarray) and len(part) and depth <= len(inputs.shape):
        depth, part = depth + 1, part[0]
    return value if depth > len(inputs.shape) else [value]


def _tensor(value: Any, spec: TensorSpec, name: str) -> Tensor:
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "iufb":
            raise ValueError
    except ValueError:
        raise UserError(f"{name}: {shortened(value)} is no array of numbers.") from None
    if array.shape != spec.shape:
        raise UserError(f"{name}: an observation of this agent has shape {spec.shape}, not {array.shape}.")
    if not np.isfinite(array).all():
        raise UserError(f"{name}: it holds a number that is not finite.")
    if spec.dtype != torch.float32 and not ((array >= spec.low) & (array <= spec.high) & (array % 1 == 0)).all():
        raise UserError(f"{name}: this observation is of whole numbers from {spec.low:g} to {spec.high:g}.")
    x = torch.from_numpy(np.array(array)).to(spec.dtype)
    if not x.isfinite().all():
        raise UserError(f"{name}: it holds a number that is too large.")
    return x
