"""Beginning a run with another run's weights: every tensor that both networks have by the same name and shape."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lab.errors import UserError
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.learner import Learner

_SCALING = "normalizer."
LEAST_SHARE = 0.25
"""of what could begin with other weights, below which nothing is begun with them"""


class Beginning(NamedTuple):
    """A sentence that says what was taken, and, for the run's records, where it comes from."""

    sentence: str
    source: dict[str, Any]


def read(field: str, reference: str) -> dict[str, Any]:
    """The content of a run's best checkpoint, or of a checkpoint file. Raises UserError when there is none."""
    path = Path(reference).expanduser()
    try:
        return checkpoint.load(path if path.is_file() else Run.open(path).checkpoint("best"))
    except UserError as error:
        raise UserError(f"{field}: {error}") from error


def require_finite(about: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError for weights to begin with that are not finite, or no floating-point numbers."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise UserError(f"{about}: its {name} is not all finite numbers, with which nothing can begin.")


def source(field: str, reference: str, content: dict[str, Any]) -> dict[str, Any]:
    """What `result.json` keeps of a checkpoint that `field` names: where it was, and of what run."""
    experiment = content["experiment"]
    origin = {"recipe": experiment.get("name"), "seed": experiment.get("seed"), "counters": content.get("counters")}
    return {"field": field, "path": str(Path(reference).expanduser().resolve()), **origin}


def start_from(module: Learner, reference: str) -> Beginning:
    """Take what fits from a run's best checkpoint, or from a checkpoint file.

    Raises UserError when there is no such run, when less than a quarter of the parameters fit, or when only one of the
    two scales its inputs (the weights would see other numbers than they were trained on).
    """
    content = read("trainer.start_from", reference)
    given, own = content["state_dict"], module.state_dict()
    fitting = [name for name, tensor in own.items() if name in given and given[name].shape == tensor.shape]
    updated = {id(p) for updater in module.updaters.values() for p in updater.module.parameters()}
    sizes = {name: p.numel() for name, p in module.named_parameters() if p.requires_grad or id(p) in updated}
    names = {id(value): name for name, value in module.named_parameters()}
    named = dict(module.named_parameters(remove_duplicate=False))  # shared ones by each of their names
    taken = {names[id(named[name])] for name in fitting if name in named} & sizes.keys()
    share = sum(sizes[name] for name in taken) / max(sum(sizes.values()), 1)
    what = f"{len(taken)} of {len(sizes)} parameter tensors ({share:.0%} of the numbers) fit"
    missing = [name for name in sizes if name not in taken]
    if share < LEAST_SHARE:
        raise UserError(
            f"trainer.start_from={reference!r}: only {what} this module by name and shape, too little to begin with"
            f"{f' ({missing[0]!r} does not)' if missing else ''}; give both the same module.backbone."
        )
    require_finite(f"trainer.start_from={reference!r}", {name: given[name] for name in fitting if name in named})
    scaled = [any(_SCALING in name for name in state) for state in (given, own)]
    if scaled[0] != scaled[1]:
        raise UserError(
            f"trainer.start_from={reference!r} was trained with module.normalize_obs={str(scaled[0]).lower()}; "
            f"set it here too."
        )
    module.load_state_dict({name: given[name] for name in fitting}, strict=False)
    module.on_started_from()
    rest = f"; these begin anew: {', '.join(missing)}" if missing else ""
    sentence = f"begins with weights of {reference}: {what}{rest}"
    return Beginning(sentence, source("trainer.start_from", reference, content))
