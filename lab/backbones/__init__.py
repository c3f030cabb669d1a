"""Backbones: networks that know nothing of their task. Importing this package registers the built-in ones."""

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
