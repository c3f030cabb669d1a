"""Beginning a run with another run's weights: every tensor that both networks have by the same name and shape."""

from __future__ import annotations

from pathlib import Path

from lab.errors import UserError
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.learner import Learner

_SCALING = "normalizer."
_LEAST_SHARE = 0.25


def start_from(module: Learner, reference: str) -> str:
    """Take what fits from a run's best checkpoint, or from a checkpoint file, and return a sentence that says what.

    Raises UserError when there is no such run, when less than a quarter of the parameters fit, or when only one of the
    two scales its inputs (the weights would see other numbers than they were trained on).
    """
    path = Path(reference).expanduser()
    content = checkpoint.load(path if path.is_file() else Run.open(path).checkpoint("best"))
    given, own = content["state_dict"], module.state_dict()
    fitting = [name for name, tensor in own.items() if name in given and given[name].shape == tensor.shape]
    sizes = {name: value.numel() for name, value in module.named_parameters() if value.requires_grad}
    names = {id(value): name for name, value in module.named_parameters()}
    named = dict(module.named_parameters(remove_duplicate=False))  # shared ones by each of their names
    taken = {names[id(named[name])] for name in fitting if name in named} & sizes.keys()
    share = sum(sizes[name] for name in taken) / max(sum(sizes.values()), 1)
    what = f"{len(taken)} of {len(sizes)} parameter tensors ({share:.0%} of the numbers) fit"
    missing = [name for name in sizes if name not in taken]
    if share < _LEAST_SHARE:
        raise UserError(
            f"trainer.start_from={reference!r}: only {what} this module by name and shape, too little to begin with"
            f"{f' ({missing[0]!r} does not)' if missing else ''}; give both the same module.backbone."
        )
    scaled = [any(_SCALING in name for name in state) for state in (given, own)]
    if scaled[0] != scaled[1]:
        raise UserError(
            f"trainer.start_from={reference!r} was trained with module.normalize_obs={str(scaled[0]).lower()}; "
            f"set it here too."
        )
    module.load_state_dict({name: given[name] for name in fitting}, strict=False)
    module.on_started_from()
    rest = f"; these begin anew: {', '.join(missing)}" if missing else ""
    return f"begins with weights of {reference}: {what}{rest}"
