"""Whether a window can open here, and pygame with or without one."""

from __future__ import annotations

import os
import sys

from lab.errors import UserError


def has_display() -> bool:
    """Whether a window can open here."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(display) or sys.platform in ("darwin", "win32")


def use_display(window: bool) -> None:
    """Let pygame open windows, or draw without a screen; sound is left out, since few servers have any."""
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    if not window:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def no_display(option: str, choices: str) -> UserError:
    """The error for a window where there is no screen."""
    return UserError(f"{option}: there is no display here. Valid choices: {choices}.")
