"""Backbones: networks that know nothing of their task. Importing this package registers the built-in ones."""

import numpy  # noqa: F401  (before torch, whose C code imports it and loses an interrupt that comes meanwhile)

from lab.backbones import conv, mlp, recurrent
from lab.backbones.registry import BACKBONES, Backbone, BackboneConfig, build_backbone, register

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneConfig",
    "build_backbone",
    "conv",
    "mlp",
    "recurrent",
    "register",
]
