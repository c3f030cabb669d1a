"""What every recipe promises: its config comes back from YAML, its fields fit, and it resumes exactly where it can run.

Recipes whose data lie in LAB_DATA or whose packages are extras are built only where those are there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lab import catalog
from lab.config import recipes, serialization
from lab.config.overrides import override, resolve
from lab.runs.directory import Run
from lab.training.loop import RunLoop
from lab.training.train import restore, train

NAMES = sorted(catalog.scan().recipes)
QUICK = {
    "classifier/digits-cnn": ["data.batches_per_step=2"],
    "classifier/digits-lstm": ["data.batches_per_step=2"],
    "lm/reference-gru": ["module.backbone.hidden=32", "data.window=16", "data.validation=0.01", "data.test=0.01"],
    "dqn/cartpole": [],
    "pg/cartpole": [],
    "vae/digits": ["data.batches_per_step=2"],
    "gan/digits": ["data.batches_per_step=2"],
    "pixelcnn/digits": ["data.batches_per_step=1", "data.batch_size=16"],
    "vq-vae/digits": ["data.batches_per_step=2"],
    "hierarchical-vae/digits": ["data.batches_per_step=2"],
    "helmholtz/digits": ["data.batches_per_step=2"],
}
"""recipes that train a few chunks in seconds, with what makes them quicker here"""


@pytest.mark.parametrize("name", NAMES)
def test_a_recipes_config_comes_back(name: str, tmp_path: Path) -> None:
    experiment = recipes.find(name)()
    assert experiment.name == name
    path = tmp_path / "experiment.yaml"
    path.write_text(serialization.to_yaml(experiment), encoding="utf-8")
    assert serialization.load(path) == experiment
    assert override(experiment, ["seed=5"]).seed == 5
    assert yaml.safe_load(path.read_text()) == json.loads(json.dumps(serialization.dump(experiment)))


def rows_without_clock(run: Run) -> list[dict[str, Any]]:
    """The metrics of a run but for what the clock says."""
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "pictures") and "per_second" not in key}
        for row in run.metrics()
    ]


class Stop:
    """Stops a run after a number of chunks, or lets it go on."""

    def __init__(self, chunks: int) -> None:
        self.chunks = chunks

    def __call__(self, loop: RunLoop) -> None:
        inner, seen = loop.on_train_batch_end, [0]

        def counted(*arguments: Any) -> None:
            seen[0] += 1
            if seen[0] == self.chunks:
                loop.ask_to_stop()
            inner(*arguments)

        loop.on_train_batch_end = counted  # type: ignore[method-assign]


@pytest.mark.parametrize("name", [name for name in QUICK if name in NAMES])
def test_a_recipe_stopped_after_two_chunks_and_resumed_is_the_run_that_was_never_stopped(
    name: str, tmp_path: Path
) -> None:
    """Two chunks, a checkpoint, a restore in a fresh module, two chunks more: as four chunks at one go."""
    common = ["trainer.num_threads=1", "trainer.log_period=1", "tracking.mode=disabled"]
    experiment = resolve(name, [*common, *QUICK[name]])
    whole = train(experiment, run_dir=tmp_path / "whole", on_loop=Stop(4))
    halved = train(experiment, run_dir=tmp_path / "halved", on_loop=Stop(2))
    assert halved.status == "interrupted"
    resumed = train(experiment, resume=Run.open(tmp_path / "halved"), on_loop=Stop(2))
    assert resumed.status == whole.status
    weights = [
        torch.load(result.run.checkpoint("last"), weights_only=True)["state_dict"] for result in (whole, resumed)
    ]
    assert list(weights[0]) == list(weights[1])
    for key in weights[0]:
        assert torch.equal(weights[0][key], weights[1][key]), key
    assert rows_without_clock(whole.run) == rows_without_clock(resumed.run)
    again, data, module, content = restore(whole.run, "last")
    data.close()
    assert again == experiment
    assert module.counters[module.counter] >= 0
    assert content["counters"][module.counter] > 0
