"""Beginning a run with another run's weights: every tensor that both networks have by the same name and shape."""

from __future__ import annotations

import logging
from pathlib import Path

from lab.errors import UserError
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.learner import Learner

log = logging.getLogger("lab")

_SCALING = "normalizer."


def start_from(module: Learner, reference: str) -> list[str]:
    """Take what fits from a run's best checkpoint, or from a checkpoint file, and return the names of what was taken.

    Raises UserError when there is no such run, when no parameter fits, or when only one of the two scales its inputs
    (the weights would see other numbers than they were trained on).
    """
    path = Path(reference).expanduser()
    content = checkpoint.load(path if path.is_file() else Run.open(path).checkpoint("best"))
    given, own = content["state_dict"], module.state_dict()
    fitting = [name for name, tensor in own.items() if name in given and given[name].shape == tensor.shape]
    parameters = {name for name, _ in module.named_parameters()}
    if not parameters.intersection(fitting):
        raise UserError(
            f"trainer.start_from={reference!r} has no tensor of the name and shape of any in this module; "
            f"give both the same module.backbone."
        )
    scaled = [any(_SCALING in name for name in names) for names in (given, own)]
    if scaled[0] != scaled[1]:
        raise UserError(
            f"trainer.start_from={reference!r} was trained with module.normalize_obs={str(scaled[0]).lower()}; "
            f"set it here too."
        )
    module.load_state_dict({name: given[name] for name in fitting}, strict=False)
    log.info("%d of %d tensors taken from %s: %s", len(fitting), len(own), reference, ", ".join(fitting))
    return fitting
