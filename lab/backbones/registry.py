"""The backbone registry: a decorated function makes a network for an input shape.

    @register("mlp", example_shape=(4,))
    def mlp(input_shape, *, hidden: tuple[int, ...] = (64, 64)) -> nn.Module: ...

The function's keyword parameters, with annotations and defaults, are the backbone's options in an experiment:
`module.backbone.name=mlp module.backbone.hidden=[256,256]`. Names `timm:...` are those of timm (timm_models.py).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, get_type_hints

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    create_model,
    model_validator,
)
from torch import Tensor, nn

from lab.backbones.freezing import Frozen, freeze, rest
from lab.backbones.initialization import Init, initialize
from lab.backbones.timm_models import PREFIX, factory_of
from lab.errors import UserError, reason, unknown
from lab.experiment import Config
from lab.registry import Registry


class Registered(NamedTuple):
    """A registered backbone: its factory, an input shape that it accepts, and what it is (see `register`)."""

    factory: Callable[..., nn.Module]
    example_shape: tuple[int, ...]
    recurrent: bool = False
    staged: bool = False
    sequential: bool = False
    trees: bool = False


_COMMON: dict[str, Any] = {
    "init": (Init, "default"),
    "bias": (FiniteFloat | None, None),
    "from_run": (str | None, None),
    "frozen": (Frozen, False),
}
"""options that every backbone has: how its weights are drawn, what its biases begin with, whose trunk it begins with
instead, and which of its layers do not learn"""
_OF_LEARNING = (*_COMMON, "dropout", "dropconnect", "drop_path", "pretrained")
"""options on which the outputs of a network that has learned do not depend"""

BACKBONES: Registry[Registered] = Registry("register", "backbone", "backbones")
BACKBONES.add_library(PREFIX, lambda name: Registered(factory_of(name), (3, 224, 224), staged=True))


class Backbone(nn.Module):
    """A network with known input and output shapes.

    Feed-forward: `(B, *input_shape) -> (B, *output_shape)`.
    Recurrent: `(x (T, B, D), state, reset (T, B)) -> (features (T, B, F), state)`; where `reset[t]` is true, the state
    is cleared before step t. A state is one tensor (S, B, F).
    """

    def __init__(self, net: nn.Module, input_shape: tuple[int, ...], recurrent: bool = False) -> None:
        super().__init__()
        self.net = net
        self.input_shape = tuple(input_shape)
        self.recurrent = recurrent
        self.config: BackboneConfig | None = None
        """what it was built from, where that is a config"""
        self.output_shape: tuple[int, ...] = self._probe()

    @property
    def num_features(self) -> int:
        """Numbers in one output."""
        return math.prod(self.output_shape)

    def initial_state(self, batch_size: int) -> Tensor:
        """The recurrent state at the start of a sequence (S, B, F), on the parameters' device."""
        state: Tensor = self.net.initial_state(batch_size)  # type: ignore[operator]
        return state

    def forward(self, *args: Tensor) -> Any:
        return self.net(*args)

    def train(self, mode: bool = True) -> Backbone:
        """As of any module, but for frozen layers, whose statistics stay as they are."""
        super().train(mode)
        if self.config is not None and self.config.is_frozen:
            rest(self)
        return self

    def _probe(self) -> tuple[int, ...]:
        training = self.training
        self.eval()
        with torch.no_grad():
            if self.recurrent:
                features, _ = self.net(
                    torch.zeros(1, 2, *self.input_shape), self.initial_state(2), torch.zeros(1, 2).bool()
                )
                shape = tuple(features.shape[2:])
            else:
                shape = tuple(self.net(torch.zeros(2, *self.input_shape)).shape[1:])
        self.train(training)
        return shape


class BackboneConfig(Config):
    """A backbone's name and its options, which are the keyword parameters of its function."""

    model_config = ConfigDict(extra="allow")

    name: str = "mlp"

    def __init__(self, name: str = "mlp", **options: Any) -> None:
        super().__init__(**{"name": name, **options})

    @property
    def recurrent(self) -> bool:
        """Whether the backbone reads sequences and carries a state."""
        return BACKBONES[self.name].recurrent

    @property
    def from_run(self) -> str | None:
        """The run, or the checkpoint, with whose trunk the backbone begins."""
        return (self.__pydantic_extra__ or {}).get("from_run")

    @property
    def is_frozen(self) -> bool:
        """Whether some layers do not learn."""
        return bool((self.__pydantic_extra__ or {}).get("frozen"))

    def of_outputs(self) -> dict[str, Any]:
        """The options that decide what is computed, set or not."""
        options = {**self.options_of(self.name), **(self.__pydantic_extra__ or {})}
        return {
            key: {"name": value.name, **value.of_outputs()} if isinstance(value, BackboneConfig) else value
            for key, value in options.items()
            if key not in _OF_LEARNING
        }

    @model_validator(mode="before")
    @classmethod
    def _check_options(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        name = str(value.get("name", "mlp"))
        given = {key: option for key, option in value.items() if key != "name"}
        options = _options_model(name)
        for key in given:
            if key not in options.model_fields:
                raise unknown(f"option of backbone {name!r}", key, options.model_fields)
        try:
            checked = options(**given)
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(str(key) for key in detail["loc"])
            message = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else detail["msg"]
            why = reason(detail["type"], detail["input"], message).removesuffix(".")
            raise UserError(f"{where}={detail['input']!r} is not valid for backbone {name!r}: {why}.") from None
        return {"name": name, **{key: getattr(checked, key) for key in given}}

    @staticmethod
    def options_of(name: str) -> dict[str, Any]:
        """The options of a backbone with their defaults. Raises UserError for an unknown name."""
        return {key: field.default for key, field in _options_model(name).model_fields.items()}


def register(
    name: str,
    example_shape: Sequence[int],
    *,
    recurrent: bool = False,
    staged: bool = False,
    sequential: bool = False,
    trees: bool = False,
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Register a backbone factory under `name`; `example_shape` is an input that it accepts (a step's, if recurrent).

    Args:
        recurrent: it reads sequences step by step and carries a state.
        staged: it is Staged, whose maps a head may ask for.
        sequential: it is a SequenceNet, which reads a whole sequence at once.
        trees: it is a TreeNet, which reads trees.

    Raises ValueError when another function has the name already.
    """

    def decorate(factory: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        BACKBONES.add(name, Registered(factory, tuple(example_shape), recurrent, staged, sequential, trees), factory)
        _options_model.cache_clear()
        return factory

    return decorate


def build_backbone(config: BackboneConfig, input_shape: Sequence[int]) -> Backbone:
    """Build a backbone. Raises UserError when it cannot take `input_shape`, or has no such layers to freeze."""
    options = {key: value for key, value in config if key not in ("name", *_COMMON)}
    entry = BACKBONES[config.name]
    try:
        net = entry.factory(tuple(input_shape), **options)
        initialize(net, getattr(config, "init", "default"), getattr(config, "bias", None))
        backbone = Backbone(net, tuple(input_shape), entry.recurrent)
    except (ValueError, IndexError, RuntimeError) as error:
        raise UserError(
            f"backbone {config.name!r} cannot take inputs of shape {tuple(input_shape)}: {error}"
        ) from error
    backbone.config = config
    freeze(backbone, net, getattr(config, "frozen", False))
    return backbone.train()


@lru_cache
def _options_model(name: str) -> type[BaseModel]:
    factory = BACKBONES[name].factory
    hints = get_type_hints(factory, include_extras=True)
    fields: dict[str, Any] = {
        key: (_counting(hints.get(key, Any), parameter.default), parameter.default)
        for key, parameter in list(inspect.signature(factory).parameters.items())[1:]
    }
    return create_model(f"{name}_options", __config__=ConfigDict(extra="forbid"), **fields, **_COMMON)


def _counting(hint: Any, default: Any) -> Any:
    """Whole numbers count something: from 1, or from 0 where that is the default."""
    if hint is int:
        return NonNegativeInt if default == 0 else PositiveInt
    return tuple[PositiveInt, ...] if hint == tuple[int, ...] else hint
