"""Fields of a config that only some of its names use."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lab.errors import shortened
from lab.experiment import Config


def check_options(config: Config, name: str, options: Mapping[str, Collection[str]]) -> None:
    """Raise ValueError where a field is set that `name` does not use; 0 and false are as good as its default.

    Args:
        options: the fields that each name uses; a field that stands in none of them is for all.
    """
    for key, field in type(config).model_fields.items():
        users = [other for other, fields in options.items() if key in fields]
        value = getattr(config, key)
        if users and name not in users and value not in (field.default, 0):
            setting = key if isinstance(value, Config) else f"{key}={shortened(value)}"
            raise ValueError(f"{setting} is not used by {name!r}, only by {', '.join(users)}")
