"""lab: a distributed reinforcement and generative learning lab.

    import lab

    result = lab.train(lab.recipe("dqn/cartpole", "module.gamma=0.97", "seed=3"), progress=True)
    print(lab.evaluate(result.run)["eval/return_mean"])

`import lab` is light; each name loads what it needs when it is first touched.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "recipe": "lab.config.overrides",
    "train": "lab.training.train",
    "resume": "lab.training.train",
    "evaluate": "lab.training.restore",
    "restore": "lab.training.restore",
    "sweep": "lab.training.sweep",
    "compare": "lab.comparison.comparison",
    "Result": "lab.training.train",
    "Run": "lab.runs.directory",
    "UserError": "lab.errors",
    "Failure": "lab.errors",
    "Experiment": "lab.experiment",
    "DataConfig": "lab.experiment",
    "ModuleConfig": "lab.experiment",
    "TrainerConfig": "lab.experiment",
    "TrackingConfig": "lab.experiment",
    "OptimizerConfig": "lab.engine.optimizers",
    "BackboneConfig": "lab.backbones.registry",
    "Learner": "lab.training.learner",
    "register": "lab.backbones.registry",
    "register_images": "lab.data.images",
    "register_text": "lab.data.text",
    "register_table": "lab.data.tables",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'lab' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
