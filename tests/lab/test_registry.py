"""A registry of names: what it takes, refuses and answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from lab.errors import UserError
from lab.registry import Registry

Flavour = Callable[[], str]


def sour() -> str:
    """Like a lemon.

    And more.
    """
    return "sour"


def sweet() -> str:
    """Like honey."""
    return "sweet"


@pytest.fixture
def flavours() -> Registry[Flavour]:
    """A registry that no source declares, with one flavour in it."""
    registry: Registry[Flavour] = Registry("register_flavour", "flavour")
    registry.register("sour")(sour)
    return registry


def test_names_values_and_lines(flavours: Registry[Flavour]) -> None:
    assert flavours.register("sweet")(sweet) is sweet
    assert flavours["sweet"] is sweet
    assert flavours.names() == ["sour", "sweet"]
    assert flavours.imported() == {"sour": sour, "sweet": sweet}
    assert flavours.summaries() == {"sour": "Like a lemon.", "sweet": "Like honey."}


def test_an_unknown_name_is_answered_with_the_nearest(flavours: Registry[Flavour]) -> None:
    assert flavours.get("sauer") is None
    with pytest.raises(UserError, match=r"^unknown flavour 'sout'\. Did you mean 'sour'\? Valid choices: sour\.$"):
        flavours["sout"]


def test_a_taken_name_is_refused_and_the_same_function_taken_again(flavours: Registry[Flavour]) -> None:
    flavours.register("sour")(sour)
    with pytest.raises(ValueError, match=r"flavour 'sour' is already registered by .*test_registry"):
        flavours.register("sour")(sweet)
    assert flavours["sour"] is sour


@pytest.mark.slow
def test_asking_for_a_name_imports_the_module_that_registers_it_and_no_other() -> None:
    code = (
        "import sys\n"
        "from lab.backbones.registry import BACKBONES\n"
        "module = 'generative.autoregressive.backbones.gated'\n"
        "assert 'gated_pixelcnn' in BACKBONES.names() and module not in sys.modules\n"
        "BACKBONES['gated_pixelcnn']\n"
        "assert module in sys.modules and 'generative.autoregressive.backbones.pixelsnail' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
