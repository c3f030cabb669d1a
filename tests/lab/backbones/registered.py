"""The backbones that contracts are about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from lab.backbones.registry import BACKBONES

_DEEPER = {"vgg13", "vgg19", "resnet34", "resnet101", "resnet152", "densenet169"}
"""those that differ from others in their numbers of layers alone, which test_published.py counts"""
_LARGE = {"vgg11", "vgg16", "googlenet", "resnet18", "resnet50", "resnext50", "densenet121", "fractalnet"}
NAMES = [name for name in BACKBONES.names() if name not in _DEEPER]


def each(names: Iterable[str], slow: Callable[[str], bool] = lambda name: False) -> Any:
    """A test for each name; those of large networks are slow, and those that `slow` says."""
    return pytest.mark.parametrize(
        "name",
        [pytest.param(name, marks=pytest.mark.slow if name in _LARGE or slow(name) else ()) for name in names],
    )
