"""The backbones that contracts are about."""

from __future__ import annotations

from lab.backbones.registry import BACKBONES

_DEEPER = {"vgg13", "vgg19", "resnet34", "resnet101", "resnet152", "densenet169"}
"""those that differ from others in their numbers of layers alone, which test_published.py counts"""
NAMES = [name for name in BACKBONES.names() if name not in _DEEPER]
