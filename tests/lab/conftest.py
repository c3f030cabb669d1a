"""What tests of the kernel share."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest

from lab import catalog
from lab.backbones import registry
from lab.experiment import DataConfig, ModuleConfig


@pytest.fixture
def own_registries() -> Iterator[None]:
    """What a test registers from outside the lab is forgotten afterwards."""
    declared = [entry for entry in catalog.scan().registries.values() if entry.module.startswith("lab.")]
    live = [getattr(importlib.import_module(entry.module), entry.attribute) for entry in declared]
    yield
    for each in [*live, DataConfig.kinds, ModuleConfig.kinds]:
        for name, registration in list(each._registrations.items()):
            if registration.place[0].partition(".")[0] not in catalog.PACKAGES:
                del each._registrations[name]
    registry._options_model.cache_clear()
