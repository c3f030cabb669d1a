"""Exported networks: equal outputs, and a script that runs them where there is no lab."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lab.config.overrides import resolve
from lab.data.spec import TensorSpec
from lab.errors import Failure
from lab.export import Exportable, Input, check, export
from lab.training.train import train

pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")

Lab = Callable[..., Any]

WITHOUT_THE_LAB = """
import runpy, sys
for name in ("lab", "agents", "generative", "cluster", "torch"):
    sys.modules[name] = None  # importing them fails
runpy.run_path(sys.argv[1], run_name="__main__")
"""
RECIPES: dict[str, list[str]] = {
    "pg/cartpole": ["data.num_envs=1"],
    "ppo/pendulum": ["data.num_envs=1", "module.action_distribution=squashed_gaussian"],
    "dqn/cartpole-rainbow": [],
    "q-learning/taxi": [],
    "dqn/frozen-lake": ["data.env=Blackjack-v1"],  # its observations are tuples
    "recurrent-q/cartpole-positions": [],
    "classifier/digits-lstm": ["module.backbone.hidden=16"],
    "vae/digits": [],
    "gan/digits": [],
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_network_runs_without_the_lab(tmp_path: Path, recipe: str) -> None:
    experiment = resolve(recipe, RECIPES[recipe])
    torch.manual_seed(0)
    data = experiment.data.build(0)
    module = experiment.module.build(data.spec)
    what = module.exportable(data)
    data.close()
    assert what is not None
    told = export(what, tmp_path)
    assert max(told["largest_difference"].values()) < 1e-4
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{what.name}.pt2", f"{what.name}.onnx", "model.json", "example.py",
    }  # fmt: skip
    example = tmp_path / "example.py"
    assert len(example.read_text().splitlines()) <= 24
    command = [sys.executable, "-c", WITHOUT_THE_LAB, str(example)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[0] in ("return", "class", "images")


@pytest.mark.slow
def test_the_script_plays_what_lab_play_plays(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agents.algorithms.agent import Agent

    monkeypatch.setattr(Agent, "eval_episodes", 1)
    settings = ["trainer.budget=64", "data.num_envs=2", "data.num_steps=32", "data.whole_episodes=false"]
    train(resolve("pg/cartpole", [*settings, "tracking.mode=disabled"]), run_dir=tmp_path / "run")
    assert lab("export", tmp_path / "run", "--json").code == 0
    played = json.loads(lab("play", tmp_path / "run", "--episodes", 1, "--render", "none", "--json").out)
    ran = subprocess.run(
        [sys.executable, tmp_path / "run" / "export" / "example.py"], capture_output=True, text=True, check=True
    )
    assert float(ran.stdout.split()[1]) == played["episodes"][0]["return"]  # both from seed 0


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.mark.slow
def test_a_file_that_differs_is_refused(tmp_path: Path) -> None:
    what = Exportable("net", Double(), {"x": Input(TensorSpec((3,)))}, ("y",), "")
    export(what, tmp_path)
    assert check(what, tmp_path)["onnx"] == 0

    class Triple(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * x

    with pytest.raises(Failure, match="another y than the network"):
        check(what._replace(network=Triple()), tmp_path)


@pytest.mark.slow
def test_any_batch_size_and_inputs_within_bounds(tmp_path: Path) -> None:
    import onnxruntime

    export(Exportable("net", Double(), {"x": Input(TensorSpec((3,)))}, ("y",), ""), tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    for batch in (1, 2, 77):
        (y,) = session.run(None, {"x": np.ones((batch, 3), np.float32)})
        assert y.shape == (batch, 3)
    drawn = Input(TensorSpec((4, 2), torch.uint8, 0, 255), batch_axis=1).draw(5, torch.Generator())
    assert (drawn.shape, drawn.dtype) == ((4, 5, 2), torch.uint8)


@pytest.mark.slow
def test_what_has_no_network_is_one_sentence(lab: Lab, tmp_path: Path) -> None:
    settings = ["trainer.budget=64", "data.batch_size=16", "data.batches_per_step=1", "tracking.mode=disabled"]
    train(resolve("autoencoder/digits", settings), run_dir=tmp_path / "run")
    done = lab("export", tmp_path / "run", "--checkpoint", "last")
    assert (done.code, "knows no network" in done.err) == (2, True)
