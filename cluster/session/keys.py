"""Keys and tokens of tracking and data services: they reach the processes that need them, and no file."""

from __future__ import annotations

import os
from collections.abc import Mapping

KEYS = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "HF_TOKEN")
"""environment variables that travel with a job and to its workers"""
DEPOSIT = "LAB_KEYS"
"""the environment variable that names where a job's keys lie in the head's memory"""


def own_keys() -> dict[str, str]:
    """Those of this process."""
    return {name: os.environ[name] for name in KEYS if os.environ.get(name)}


def adopt(keys: Mapping[str, str]) -> None:
    """Take keys of another process, where this one has none of its own."""
    for name, value in keys.items():
        os.environ.setdefault(name, value)


def masked(text: str) -> str:
    """Text without the values of keys and tokens."""
    for name, value in own_keys().items():
        if name.endswith(("KEY", "TOKEN")):
            text = text.replace(value, "*" * 8)
    return text
