"""lab: a distributed reinforcement and generative learning lab.

`import lab` is light; `lab.train`, `lab.Experiment` and `lab.register` load what they need when they are first touched.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "Experiment": "lab.experiment",
    "DataConfig": "lab.experiment",
    "ModuleConfig": "lab.experiment",
    "TrainerConfig": "lab.experiment",
    "TrackingConfig": "lab.experiment",
    "OptimizerConfig": "lab.engine.optimizers",
    "BackboneConfig": "lab.backbones.registry",
    "register": "lab.backbones.registry",
    "register_images": "lab.data.images",
    "register_text": "lab.data.text",
    "Learner": "lab.training.learner",
    "train": "lab.training.train",
    "restore": "lab.training.train",
    "Run": "lab.runs.directory",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'lab' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value  # `lab.train` is the function, also after the module of that name was imported
    return value
