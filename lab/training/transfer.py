"""Beginning a backbone with the trunk of another run, of whatever family (`module.backbone.from_run`).

A layer is taken whole, with its statistics, where all its tensors have the same names and shapes: a bias that is
another layer's is worth nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from lab.backbones.registry import Backbone, BackboneConfig
from lab.backbones.timm_models import TimmNet
from lab.backbones.trunks import Trunk, configured, differences, read_trunks
from lab.errors import UserError
from lab.training.learner import Learner
from lab.training.warm_start import LEAST_SHARE, Beginning, read, require_finite, source

Candidate = tuple[Trunk, dict[str, Tensor]]


def begin_backbones(module: Learner) -> list[Beginning]:
    """Let the backbones whose config names a run begin with its trunk; one sentence for each run that is named.

    Those of timm whose config says so begin with timm's weights.

    Where the other run has several backbones of this sort, one takes that of its own name, or else the first.

    Raises UserError when there is no such run, when its backbones are others (which is said), and when less than a
    quarter of the layers fit.
    """
    updated = {id(part) for updater in module.updaters.values() for part in updater.module.modules()}
    beginnings: list[Beginning] = []
    named: dict[str, dict[str, Backbone]] = {}
    for name, backbone in configured(module).items():
        learns = not updated or id(backbone) in updated  # what follows another network is set to it below
        if not learns or backbone.config is None:
            continue
        if isinstance(backbone.net, TimmNet) and getattr(backbone.config, "pretrained", False):
            backbone.net.load_pretrained()
            sentence = f"{name} begins with timm's weights of {backbone.net.name}"
            beginnings.append(Beginning(sentence, {"field": "module.backbone.pretrained", "timm": backbone.net.name}))
        if backbone.config.from_run is not None:
            named.setdefault(backbone.config.from_run, {})[name] = backbone
    beginnings += [_begin(module, reference, backbones) for reference, backbones in named.items()]
    if beginnings:
        module.on_started_from()
    return beginnings


def _begin(module: Learner, reference: str, backbones: dict[str, Backbone]) -> Beginning:
    field = next(_fields(module.config, reference), "module.backbone.from_run")
    about = f"{field}={reference!r}"
    content = read(field, reference)
    if "trunks" not in content:
        raise UserError(f"{about} was saved by a lab that did not note its backbones; take trainer.start_from for it.")
    trunks = read_trunks(content["trunks"], content["state_dict"], reference)
    taken, anew, origins = dict[str, list[Tensor]](), dict[str, list[Tensor]](), list[str]()
    for name, backbone in backbones.items():
        assert backbone.config is not None
        trunk, given = _choose(about, name, backbone.config, trunks)
        given = _aligned(given, backbone)
        origins.append(trunk.name)
        for layer, tensors in _layers(backbone).items():
            whole = f"{name}.{layer}".rstrip(".")
            if all(key in given and given[key].shape == tensor.shape for key, tensor in tensors.items()):
                taken[whole] = list(tensors.values())
                require_finite(about, {key: given[key] for key in tensors if tensors[key].is_floating_point()})
                with torch.no_grad():
                    for key, tensor in tensors.items():
                        tensor.copy_(given[key])
            else:
                anew[whole] = list(tensors.values())
    count, numbers = len(taken) + len(anew), (_size(taken), _size(taken) + _size(anew))
    what = f"{len(taken)} of {count} layers ({numbers[0] / max(numbers[1], 1):.0%} of the numbers) fit"
    if len(taken) < LEAST_SHARE * count or not taken:
        raise UserError(
            f"{about}: only {what} by name and shape, too little to begin with"
            f"{f' ({next(iter(anew))!r} does not)' if anew else ''}; its inputs may have another shape."
        )
    into, rest = " and ".join(backbones), f"; these begin anew: {', '.join(anew)}" if anew else ""
    begins, origin = "begins" if len(backbones) == 1 else "begin", " and ".join(dict.fromkeys(origins))
    sentence = f"{into} {begins} with {origin} of {reference}: {what}{rest}"
    names = dict(zip(backbones, origins, strict=True))
    return Beginning(sentence, source(field, reference, content) | {"backbones": names})


def _choose(about: str, name: str, config: BackboneConfig, trunks: list[Candidate]) -> Candidate:
    """The trunk that a backbone of this name and config begins with. Raises UserError when none is of its sort."""
    same_sort = [each for each in trunks if each[0].config.get("name") == config.name]
    if not same_sort:
        others = ", ".join(dict.fromkeys(str(trunk.config.get("name")) for trunk, _ in trunks)) or "none"
        raise UserError(f"{about}: that run's backbone is {others}, and this one's {config.name}; take the same.")
    alike = [each for each in same_sort if not differences(each[0].config, config)]
    if not alike:
        apart = "; ".join(differences(same_sort[0][0].config, config))
        raise UserError(f"{about}: that run's {config.name} has other options: {apart}; take the same.")
    return next((each for each in alike if each[0].name == name), alike[0])


def _aligned(given: dict[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
    """The tensors of a trunk by the backbone's names.

    Dropout has no tensors, but moves the numbers of the layers behind it: where names differ in these alone, the order
    of the layers tells which is which.
    """
    own = list(backbone.state_dict())
    moved = [*given][:1] == own[:1] and [_numberless(key) for key in given] == [_numberless(key) for key in own]
    return dict(zip(own, given.values(), strict=True)) if moved and given.keys() != set(own) else given


def _numberless(name: str) -> str:
    return ".".join("" if part.isdecimal() else part for part in name.split("."))


def _layers(backbone: Backbone) -> dict[str, dict[str, Tensor]]:
    """The tensors of each layer that has parameters of its own, with its statistics, by their names."""
    owners = {name.rpartition(".")[0] for name, _ in backbone.named_parameters()}
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in backbone.state_dict().items():
        owner = key.rpartition(".")[0]
        if owner in owners:
            layers.setdefault(owner, {})[key] = tensor
    return layers


def _size(layers: dict[str, list[Tensor]]) -> int:
    return sum(tensor.numel() for tensors in layers.values() for tensor in tensors if tensor.is_floating_point())


def _fields(value: Any, reference: str, path: str = "module") -> Iterator[str]:
    """The fields below `path` that name this run for a backbone."""
    if isinstance(value, BackboneConfig) and value.from_run == reference:
        yield f"{path}.from_run"
    if isinstance(value, BaseModel):
        for key, part in value:
            yield from _fields(part, reference, f"{path}.{key}")
