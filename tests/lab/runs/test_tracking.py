"""Tracking: written offline, unimported when disabled, never asking, never in a run's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.config.overrides import override, resolve
from lab.runs.directory import Run
from lab.runs.tracking import mode_of
from lab.runs.wandb_files import num_rows_held
from lab.training.train import train

RECIPE = "classifier/digits-cnn"
QUICK = ["trainer.budget=1300", "trainer.num_threads=1", "trainer.log_period=1"]


@pytest.fixture
def tracking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Tracking switched on again, with a home of its own."""
    monkeypatch.delenv("WANDB_MODE")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    return monkeypatch


def test_the_mode_is_decided_without_asking(tracking: pytest.MonkeyPatch, tmp_path: Path) -> None:
    experiment = resolve(RECIPE)
    assert mode_of(experiment) == "offline"
    tracking.setenv("WANDB_API_KEY", "x" * 40)
    assert mode_of(experiment) == "online"
    assert mode_of(override(experiment, ["tracking.mode=offline"])) == "offline"
    tracking.setenv("WANDB_MODE", "offline")
    assert mode_of(experiment) == "offline"
    tracking.delenv("WANDB_MODE")
    tracking.delenv("WANDB_API_KEY")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine elsewhere.example login user password x\n")
    tracking.setenv("NETRC", str(netrc))
    assert mode_of(experiment) == "offline"
    netrc.write_text("this is not a netrc file {")
    assert mode_of(experiment) == "offline"


def offline_rows(file: Path) -> list[dict[str, Any]]:
    """The rows in an offline W&B file, by the client's own reader."""
    words = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return [record["history"]["item"] for record in records if record["type"] == "history"]


@pytest.mark.slow
def test_an_offline_run_is_written_in_the_run_directory(tracking: pytest.MonkeyPatch, tmp_path: Path) -> None:
    experiment = resolve(RECIPE, [*QUICK, "tracking.tags=[a,b]", "tracking.group=together"])
    result = train(experiment, run_dir=tmp_path / "run")
    assert result.status == "completed"
    files = list((tmp_path / "run" / "wandb").rglob("*.wandb"))
    assert len(files) == 1
    rows = offline_rows(files[0])
    assert len(rows) == len(result.run.metrics())
    for sent, row in zip(rows, result.run.metrics(), strict=True):
        pictures, histograms = row.pop("pictures", {}), row.pop("histograms", {})
        row.pop("classes", None)  # for the report alone
        assert {key: sent[key] for key in row} == pytest.approx(row)
        for name, (low, high, counts) in histograms.items():
            assert sent[f"histograms/{name}.values"] == counts
            assert sent[f"histograms/{name}.bins"] == pytest.approx(np.linspace(low, high, len(counts) + 1))
        assert {f"pictures/{name}.path" for name in pictures} == {key for key in sent if key.endswith(".path")}
    logged = json.loads((tmp_path / "run" / ".tracked.json").read_text())
    assert logged["offset"] == (tmp_path / "run" / "metrics.jsonl").stat().st_size


@pytest.mark.slow
def test_each_row_goes_out_once_over_an_interruption(tracking: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []
    from lab.runs.tracking import Tracker

    send = Tracker._send
    tracking.setattr(Tracker, "_send", lambda self, row, step: (sent.append(dict(row)), send(self, row, step)))
    experiment = resolve(RECIPE, [*QUICK, "trainer.budget=4000"])
    first = train(experiment, run_dir=tmp_path / "run", on_loop=lambda loop: loop.ask_to_stop())
    assert first.status == "interrupted"
    train(experiment, resume=Run.open(tmp_path / "run"))
    assert sent == Run.open(tmp_path / "run").metrics()
    assert num_rows_held(tmp_path / "run") == len(sent)


@pytest.mark.slow
def test_an_unreachable_server_neither_fails_nor_hangs_a_run(tracking: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tracking.setenv("WANDB_API_KEY", "x" * 40)
    tracking.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    tracking.setattr("lab.runs.tracking._INIT_TIMEOUT_SECONDS", 2.0)
    began = time.monotonic()
    result = train(resolve(RECIPE, QUICK), run_dir=tmp_path / "run")
    assert result.status == "completed"
    assert time.monotonic() - began < 90
    assert list((tmp_path / "run" / "wandb").rglob("*.wandb"))


@pytest.mark.slow
def test_a_client_that_raises_does_not_fail_a_run(tracking: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("no such luck")

    import wandb

    with tracking.context() as patch:
        patch.setattr(wandb, "init", broken)
        assert train(resolve(RECIPE, QUICK), run_dir=tmp_path / "one").status == "completed"
    assert "no such luck" in (tmp_path / "one" / "log.txt").read_text()
    from lab.runs.tracking import Tracker

    with tracking.context() as patch:
        patch.setattr(Tracker, "_send", broken)
        assert train(resolve(RECIPE, QUICK), run_dir=tmp_path / "two").status == "completed"
    assert "tracking failed" in (tmp_path / "two" / "log.txt").read_text()


@pytest.mark.slow
def test_disabled_tracking_and_local_training_import_neither_wandb_nor_ray(tmp_path: Path) -> None:
    words = ["train", RECIPE, *QUICK, "tracking.mode=disabled", "--quiet", "--out", str(tmp_path / "run")]
    code = (
        "import sys\nfrom lab.cli import main\n"
        f"code = main({words!r})\n"
        "assert code == 0\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'wandb', 'ray', 'agents', 'cluster'}))"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_with_a_terminal_and_no_key_it_does_not_ask(tmp_path: Path) -> None:
    """The client asks when it sees a terminal; so the command gets one, and nobody who would answer."""
    import pty

    words = ["train", RECIPE, *QUICK, "--quiet", "--out", str(tmp_path / "run")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.cli", *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:  # how a closed terminal reads on Linux
        pass
    finally:
        os.close(ours)
    assert process.wait(timeout=120) == 0, seen.decode()
    assert list((tmp_path / "run" / "wandb").rglob("*.wandb"))


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_only_who_tracks_sets_aside_a_part_without_an_end(
    tracking: pytest.MonkeyPatch, tmp_path: Path, mode: str
) -> None:
    """Another rank of the same run does not track: the part that the first one is writing has no end yet."""
    from lab.runs.tracking import Tracker

    tracking.setattr("lab.runs.tracking._init", lambda *arguments: None)
    part = tmp_path / "run" / "wandb" / "offline-run-20260101_000000-abcdefgh"
    experiment = resolve(RECIPE, [*QUICK, f"tracking.mode={mode}"])
    run = Run.create(experiment, tmp_path / "run")
    part.mkdir(parents=True)
    (part / "run-abcdefgh.wandb").write_bytes(b":W&B\xe1\xbe\x00")
    Tracker(experiment, run, "samples", "classifier")
    assert part.is_dir() == (mode == "disabled")
