"""Launchers are found by name in whichever package registers them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.errors import UserError
from lab.launchers import LAUNCHERS, launch, register_launcher


def test_the_lab_has_launchers_of_workers_and_sweeps() -> None:
    assert LAUNCHERS.names() == ["new_sweep", "sweep", "workers"]


def test_a_launcher_takes_the_arguments(own_registries: None) -> None:
    @register_launcher("here")
    def here(*arguments: int) -> int:
        return sum(arguments)

    assert launch("here", 1, 2) == 3
    with pytest.raises(UserError, match=r"unknown launcher 'hare'\. Did you mean 'here'"):
        launch("hare")


def test_without_ray_several_workers_and_sweeps_are_refused_in_a_sentence(
    lab: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    refused = lab("train", "classifier/digits-cnn", "trainer.num_workers=2", "tracking.mode=disabled")
    assert (refused.code, refused.err) == (
        2,
        "lab: launcher 'workers' needs the package 'ray', which is not installed.\n",
    )
