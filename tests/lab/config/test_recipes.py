"""Recipes, backbones, data sets and environments: the lab's own, and those of other packages."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import catalog
from lab.backbones import registry
from lab.config import recipes, serialization
from lab.data.captions import CAPTIONS
from lab.data.images import IMAGES
from lab.data.language.corpus import CORPORA
from lab.data.language.tree_files import TREES
from lab.data.tables import TABLES
from lab.data.text import TEXTS
from lab.errors import UserError
from lab.experiment import DataConfig, ModuleConfig
from lab.launchers import LAUNCHERS

OUTSIDE = '''
"""A package that knows the lab, and that the lab does not know."""

import numpy as np
from torch import nn

from lab import BackboneConfig, Experiment, TrainerConfig, register, register_images, register_text
from lab.data.images import ImageArrays, ImageData
from lab.data.text import TextData
from lab.supervised.supervised import SupervisedConfig


@register("outside_net", example_shape=(3,))
def outside_net(input_shape, *, width: int = 4) -> nn.Module:
    """A net from outside."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width))


@register_images("outside-stripes")
def stripes(root) -> ImageArrays:
    """Two classes of stripes."""
    labels = np.arange(200) % 2
    images = np.zeros((200, 6, 6), np.uint8)
    images[labels == 0, ::2] = 255
    images[labels == 1, :, ::2] = 255
    return ImageArrays((images, labels), (images[:50], labels[:50]))


@register_text("outside-text")
def text(root) -> str:
    """The alphabet, again and again."""
    return "abcdefghijklmnopqrstuvwxyz" * 500


def stripes_recipe() -> Experiment:
    """Tell stripes apart."""
    return Experiment(
        name="outside/stripes",
        data=ImageData(name="outside-stripes", batch_size=20, batches_per_step=5),
        module=SupervisedConfig(backbone=BackboneConfig(name="outside_net", width=8)),
        trainer=TrainerConfig(budget=6000, eval_period=3000),
    )


def not_an_experiment():
    return 3


def misspelt() -> Experiment:
    return Experiment(**{**dict(stripes_recipe()), "sede": 3})


def fails():
    raise ValueError("the author of this recipe made a mistake")
'''


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_registries: None) -> Iterator[str]:
    """A package `outsidepkg.things` on the path, forgotten afterwards."""
    package = tmp_path / "outsidepkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "things.py").write_text(OUTSIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "outsidepkg.things"
    for name in [name for name in sys.modules if name.startswith("outsidepkg")]:
        del sys.modules[name]


def test_every_recipe_has_a_family_a_line_and_is_found() -> None:
    entries = catalog.scan().recipes
    assert {"classifier/digits-cnn", "classifier/digits-lstm", "lm/reference-gru"} <= set(entries)
    for name, entry in entries.items():
        assert name.count("/") == 1, name
        assert "_" not in name
        assert len(entry.summary) > 10, f"{name} says nothing"


def test_underscores_are_forgiven() -> None:
    assert recipes.find("classifier/digits_cnn") is recipes.find("classifier/digits-cnn")


def test_a_wrong_recipe_names_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"unknown recipe 'classifier/digit-cnn'\. Did you mean 'classifier/digits-cnn'"
    ):
        recipes.find("classifier/digit-cnn")


def test_the_catalog_agrees_with_what_is_registered_at_run_time() -> None:
    scanned = catalog.scan()
    for declared in scanned.registries.values():
        catalog.import_registered(declared.decorator)
        live = getattr(importlib.import_module(declared.module), declared.attribute)
        assert (live.decorator, live.section) == (declared.decorator, declared.section)
        assert set(scanned.registered[declared.decorator]) <= set(live.imported())
    assert {registry.BACKBONES, CAPTIONS, CORPORA, IMAGES, TABLES, TEXTS, TREES, LAUNCHERS} == {
        getattr(sys.modules[declared.module], declared.attribute) for declared in scanned.registries.values()
    }
    catalog.import_registered(catalog.KIND)
    for kind, config_class in [*DataConfig.kinds.imported().items(), *ModuleConfig.kinds.imported().items()]:
        own = config_class.__module__.startswith(catalog.PACKAGES)
        assert kind in scanned.registered[catalog.KIND] or not own, kind


def test_a_recipe_from_outside_trains_like_one_of_ours(outside: str, lab: Callable[..., Any], tmp_path: Path) -> None:
    done = lab("train", f"{outside}:stripes_recipe", "--quiet", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    evaluated = lab("evaluate", tmp_path / "run", "--json", "--import", "outsidepkg.things")
    assert evaluated.code == 0, evaluated.err
    assert yaml.safe_load(evaluated.out)["metrics"]["eval/accuracy"] == 1.0


def test_what_is_registered_outside_is_listed_and_taken(outside: str, lab: Callable[..., Any]) -> None:
    listed = lab("list", "--import", outside)
    assert {"outside_net", "outside-stripes", "outside-text"} <= set(listed.out.split())
    shown = lab("show", "classifier/digits-cnn", "--import", outside, "module.backbone.name=outside_net")
    assert yaml.safe_load(shown.out)["module"]["backbone"]["name"] == "outside_net"


def test_a_file_does_not_decide_what_is_imported(outside: str, lab: Callable[..., Any], tmp_path: Path) -> None:
    tree = serialization.dump(recipes.find(f"{outside}:stripes_recipe")())
    path = tmp_path / "outside.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    registry.BACKBONES._registrations.pop("outside_net")
    registry._options_model.cache_clear()
    del sys.modules[outside], sys.modules["outsidepkg"]
    refused = lab("show", path)
    assert refused.code == 2
    assert outside not in sys.modules
    assert "outside_net" in refused.err
    assert lab("show", path, "--import", outside).code == 0


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("nosuchpackage.x:recipe", "no module named 'nosuchpackage'"),
        ("outsidepkg.nothing:recipe", "no module named 'outsidepkg.nothing'"),
        ("outsidepkg.things:stripes_recip", "Did you mean 'stripes_recipe'"),
        ("outsidepkg.things:", "outsidepkg.things"),
        ("outsidepkg.things:not_an_experiment", "returned int, not an Experiment"),
        ("outsidepkg.things:misspelt", "misspelt makes no experiment: Experiment.sede=3"),
        (":recipe", "is not a module's name"),
        ("os:system", "os:system is no recipe: that is a function without arguments"),
        ("math:hypot", "math:hypot is no recipe"),
        ("outsidepkg.things:stripes_recipe:more", "more"),
    ],
)
def test_wrong_names_outside_are_one_sentence(outside: str, lab: Callable[..., Any], target: str, part: str) -> None:
    done = lab("show", target)
    assert done.code == 2, done.err
    assert part in done.err
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.err


def test_a_broken_recipe_fails_with_its_own_words(outside: str, lab: Callable[..., Any]) -> None:
    done = lab("show", f"{outside}:fails")
    assert done.code == 1
    assert "the author of this recipe made a mistake" in done.err


def test_a_taken_name_is_refused() -> None:
    from torch import nn

    from lab.data.images import register_images
    from lab.data.text import register_text

    def other(*args: Any) -> Any:
        return nn.Identity()

    with pytest.raises(ValueError, match="already registered"):
        registry.register("mlp", example_shape=(4,))(other)
    import lab.data.images
    import lab.data.text  # noqa: F401

    with pytest.raises(ValueError, match="already registered"):
        register_images("digits")(other)
    with pytest.raises(ValueError, match="already registered"):
        register_text("python-reference")(other)
