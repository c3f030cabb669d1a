"""Completion: what it offers, without importing torch, and through a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab import catalog
from lab.commands.completion import SCRIPTS
from lab.config import recipes, serialization
from lab.config.completion import fields_of
from lab.config.words import candidates


def test_commands_and_options():
    assert "train" in candidates([""])
    assert candidates(["trai"]) == ["train"]
    assert "--checkpoint" in candidates(["evaluate", "x", "--ch"])
    assert candidates(["evaluate", "x", "--checkpoint", ""]) == ["best", "last"]
    assert candidates(["list", "rec"]) == ["recipes"]
    assert candidates(["nonsense", ""]) == []


def test_recipes():
    assert "classifier/digits-cnn" in candidates(["train", "classifier/"])
    assert candidates(["train", "--quiet", "classifier/digits-c"]) == ["classifier/digits-cnn"]


def test_fields_and_values():
    fields = candidates(["train", "classifier/digits-cnn", "module."])
    assert {"module.optimizer.lr=", "module.backbone.name=", "module.task.label_smoothing="} <= set(fields)
    assert "trainer.budget=" in candidates(["train", "classifier/digits-cnn", "seed=1", "trainer."])
    assert candidates(["train", "classifier/digits-cnn", "trainer.precision="]) == [
        "trainer.precision=32",
        "trainer.precision=bf16",
    ]
    assert "module.backbone.name=lenet" in candidates(["train", "classifier/digits-cnn", "module.backbone.name=l"])
    assert candidates(["train", "classifier/digits-cnn", "data.name=dig"]) == ["data.name=digits"]


def test_backbones_and_their_options():
    assert candidates(["show", "back"]) == ["backbone"]
    assert "resnet" in candidates(["show", "backbone", ""])
    assert candidates(["show", "backbone", "--json", "nature"]) == ["nature_cnn"]
    assert candidates(["show", "backbone", "resnet", ""]) == ["channels=", "blocks=", "norm=", "hidden="]
    assert "backbone" not in candidates(["train", ""])
    assert "module.backbone.channels=" in candidates(["train", "classifier/digits-cnn", "module.backbone."])


@pytest.mark.parametrize("name", sorted(catalog.scan().recipes))
def test_every_field_of_every_recipe_is_offered(name):
    """What the source says agrees with what the recipe holds when it is really made."""
    real = serialization.flatten(serialization.dump(recipes.find(name)()))
    offered = fields_of(name)
    missing = [
        field
        for field in real
        if field not in offered
        and not field.startswith(("module.backbone.", "module.decoder."))
        and not any(field.startswith(path + ".") for path in offered)
        and not any(path.startswith(field + ".") for path in offered)
    ]
    assert missing == []


def test_run_directories(tmp_path, monkeypatch):
    (tmp_path / "runs" / "vae-digits-s0").mkdir(parents=True)
    (tmp_path / "runs" / "vae-digits-s0" / "experiment.yaml").write_text("name: vae/digits\n")
    (tmp_path / "runs" / "sweep-1").mkdir()
    runs = str(tmp_path / "runs")
    assert candidates(["evaluate", ""]) == [f"{runs}/sweep-1/", f"{runs}/vae-digits-s0"]
    assert candidates(["compare", f"{runs}/vae-digits-s0", f"{runs}/va"]) == [f"{runs}/vae-digits-s0"]
    assert "module.optimizer.lr=" in candidates(["evaluate", f"{runs}/vae-digits-s0", "module.opt"])


def test_it_imports_nothing_heavy():
    script = (
        "import sys; from lab.cli import main; main(['completion', '--words', 'train', 'dqn/cartpole', 'module.']);"
        "assert not {'torch', 'pydantic', 'numpy', 'ray', 'wandb'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def with_lab(tmp_path) -> dict[str, str]:
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "lab"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m lab.cli "$@"\n')
    command.chmod(0o755)
    root = str(Path(__file__).resolve().parents[3])
    return os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": root}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lab trai", "train"),
        ("lab train classifier/digits-c", "classifier/digits-cnn"),
        ("lab train classifier/digits-cnn module.task.label", "module.task.label_smoothing="),
        ("lab train classifier/digits-cnn trainer.precision=b", "bf16"),
        ("lab evaluate x --checkpoint ", "best"),
    ],
)
def test_in_bash(with_lab, line, offered):
    script = f'{SCRIPTS["bash"]}\nCOMP_LINE="{line}" COMP_POINT={len(line)}\n_lab 2>/dev/null; echo "${{COMPREPLY[0]}}"'
    done = subprocess.run(["bash", "-c", script], env=with_lab, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_parse(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    (tmp_path / "script").write_text(SCRIPTS[shell])
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_the_command(lab):
    assert "complete -F _lab lab" in lab("completion", "bash").out
    assert lab("completion").code == 2
    assert lab("completion", "powershell").code == 2
