"""What every recipe promises: its config comes back from YAML, and its fields fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lab import catalog
from lab.config import recipes, serialization
from lab.config.overrides import override

NAMES = sorted(catalog.scan().recipes)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipes_config_comes_back(name: str, tmp_path: Path) -> None:
    experiment = recipes.find(name)()
    assert experiment.name == name
    path = tmp_path / "experiment.yaml"
    path.write_text(serialization.to_yaml(experiment), encoding="utf-8")
    assert serialization.load(path) == experiment
    assert override(experiment, ["seed=5"]).seed == 5
    assert yaml.safe_load(path.read_text()) == json.loads(json.dumps(serialization.dump(experiment)))
