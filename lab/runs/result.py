"""What is in a `result.json`, and what readers take for granted of one."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from lab.errors import UserError, shortened


class _Monitor(TypedDict):
    metric: str
    mode: Literal["max", "min"]


class _Best(TypedDict):
    metric: str
    value: float


@with_config(ConfigDict(strict=True, allow_inf_nan=False))
class _Result(TypedDict, total=False):
    format: int
    recipe: str
    status: str
    reason: str | None  # why a completed run ended before its budget
    seed: int
    counter: str
    env_steps: float
    samples: float
    budget: float
    seconds: float
    metrics: dict[str, float | None]  # None: a number that was not finite
    monitor: _Monitor
    best: _Best | None
    imports: list[str]
    versions: dict[str, str | None]
    machine: dict[str, Any]


_RESULT = TypeAdapter(_Result)


def check_result(path: str, result: dict[str, Any]) -> None:
    """Raise UserError when a value is absent or of another type; what is not known here is left as it is."""
    try:
        _RESULT.validate_python(result)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(map(str, detail["loc"]))
        held = "missing" if detail["type"] == "missing" else shortened(detail["input"])
        raise UserError(f"{path!r} is damaged: {where} is {held}.") from None
    if "counter" in result and result["counter"] not in result:
        raise UserError(f"{path!r} is damaged: counter is {shortened(result['counter'])}, which it does not hold.")
