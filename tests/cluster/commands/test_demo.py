"""The demo: what it shows, and what it says about a folder that exists. Its training itself is a sweep's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.sweep.presentation import present
from cluster.sweep.start import DEMO_RECIPES
from cluster.sweep.sweep import Sweep, SweepConfig, SweepEntry
from lab import catalog
from lab.config.overrides import resolve
from lab.training.train import train

FAMILIES = {"classifier/digits-cnn": 1280, "vae/digits": 1280, "pg/cartpole": 4000}


def test_every_recipe_exists() -> None:
    assert set(DEMO_RECIPES) <= set(catalog.scan().recipes)
    assert {name.partition("/")[0] for name in DEMO_RECIPES} == {"dqn", "pg", "vae", "gan", "pixelcnn", "classifier"}


@pytest.mark.slow
def test_a_finished_demo_is_measured_compared_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep.create(tmp_path / "demo", SweepConfig(name="demo", targets=tuple(FAMILIES), ending="demo"))
    for index, (target, budget) in enumerate(FAMILIES.items()):
        entry = SweepEntry(index=index, folder=target.replace("/", "-"), target=target, status="completed")
        sweep.entries.append(entry)
        experiment = resolve(target, [f"trainer.budget={budget}", "trainer.num_threads=1"])
        train(experiment, run_dir=sweep.run_path(entry))
    failed = SweepEntry(index=9, folder="gan-digits", target="gan/digits", status="failed", error="it is broken")
    sweep.entries.append(failed)
    assert present(sweep) == 1
    output = capsys.readouterr().out
    assert "it is broken" in output
    assert all(target in output for target in FAMILIES)
    assert "accuracy" in output
    assert "return_mean" in output
    assert "next:" in output
    report = sweep.path / "report"
    assert len(list(report.glob("curve-*.png"))) == 3
    assert (report / "media" / "vae-digits" / "interpolation.png").is_file()
    assert (report / "media" / "vae-digits" / "samples.png").is_file()
    assert (report / "media" / "pg-cartpole" / "episode.gif").read_bytes().startswith(b"GIF8")
    page = (report / "index.html").read_text()
    assert all(str(sweep.run_path(entry)) in page for entry in sweep.entries[:3])
    assert "https://" not in page.partition("<script")[0]


def test_a_folder_that_exists_is_one_sentence(lab: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "notes.txt").write_text("mine")
    done = lab("demo", "--out", tmp_path / "demo")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "give another folder" in done.err
    Sweep.create(tmp_path / "cut", SweepConfig(name="demo", targets=DEMO_RECIPES, ending="demo"))
    assert f"go on with: lab resume {tmp_path / 'cut'}" in lab("demo", "--out", tmp_path / "cut").err
