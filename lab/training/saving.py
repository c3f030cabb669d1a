"""Checkpoints of a run: what goes in, and how it is put back."""

from __future__ import annotations

from typing import Any

from lab.errors import UserError
from lab.training.learner import Learner


def load_weights(module: Learner, content: dict[str, Any]) -> None:
    """Load a checkpoint's weights. Raises UserError when they belong to another network."""
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the checkpoint does not fit the experiment's module: {reason}") from None
