"""Files of a run that are lost, damaged or changed between a stop and what follows it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.envs.make import InProcessEnvs, make_env
from agents.play.demonstrations import EpisodeRecorder
from lab.config.overrides import resolve
from lab.errors import UserError
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training import train as lab_train
from lab.training.train import train
from tests.lab.training.small_run import (
    OVERRIDES,
    assert_same_run,
    experiment,
    rows,
)

pytestmark = pytest.mark.slow


def files_of(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def small_run(path: Path, *overrides: str) -> Run:
    return train(experiment("trainer.budget=3000", "trainer.checkpoint_seconds=1e-6", *overrides), run_dir=path).run


@pytest.mark.parametrize("previous", [True, False])
@pytest.mark.parametrize("damage", ["gone", "flipped", "cut", "empty"])
def test_a_lost_last_checkpoint_is_told_and_nothing_changed(
    lab: Any, tmp_path: Path, damage: str, previous: bool
) -> None:
    run = small_run(tmp_path / "run")
    content = bytearray(run.last.read_bytes())
    if damage == "gone":
        run.last.unlink()
    else:
        content[len(content) // 2] ^= 4
        run.last.write_bytes({"flipped": bytes(content), "cut": bytes(content[:-99]), "empty": b""}[damage])
    if not previous:
        run.previous.unlink()
    before = files_of(run.path)
    refused = lab("resume", run.path, "trainer.budget=6000", "--quiet")
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert "last.ckpt" in refused.err
    assert ("is gone" if damage == "gone" else "is damaged") in refused.err
    after = files_of(run.path)
    for name in (".lock", "log.txt"):
        before.pop(name, None), after.pop(name, None)
    assert after == before
    if previous:
        command = refused.err.partition("is whole: ")[2].partition(" and resume")[0]
        subprocess.run(command.split(), check=True)
        assert lab("resume", run.path, "--quiet").code == 0
        assert rows(run) == rows(small_run(tmp_path / "again"))
    else:
        assert f"trainer.start_from={run.path} begins a new run" in refused.err


def test_replay_goes_on_from_the_checkpoint_before(tmp_path: Path) -> None:
    """The segments of replay that only the checkpoint before the last one names are still there."""
    words = [
        "trainer.budget=3000",
        "trainer.checkpoint_seconds=1e-6",
        "data.replay.capacity=500",
        "tracking.mode=disabled",
    ]
    run = train(resolve("dqn/cartpole", words), run_dir=tmp_path / "run").run
    expected = rows(run)
    run.previous.replace(run.last)
    again = train(run.experiment(), resume=run).run
    assert rows(again) == expected


@pytest.mark.parametrize("which", ["best", "last"])
@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_flipped_bit_is_no_checkpoint(tmp_path: Path, whole: Run, which: str, place: float) -> None:
    path = tmp_path / "copy.ckpt"
    content = bytearray((whole.checkpoints / f"{which}.ckpt").read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(path)


def test_a_metrics_file_that_lost_its_end_keeps_its_rows(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    before = rows(run)
    content = run.metrics_path.read_bytes()
    run.metrics_path.write_bytes(content[: content.index(b"\n") + 20])
    result = lab_train.resume(run.path, "trainer.budget=6000")
    assert b"\0" not in run.metrics_path.read_bytes()
    assert rows(run)[0] == before[0]
    assert rows(run)[1]["samples"] > before[-1]["samples"]
    assert any("eval/accuracy" in row for row in rows(run))
    assert result.run.result()["samples"] >= 6000
    assert "metrics.jsonl is shorter than its checkpoint says" in (run.path / "log.txt").read_text()


def test_a_broken_line_hides_no_other(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    lines = run.metrics_path.read_bytes().splitlines()
    whole_rows = run.metrics()
    broken = [b'{"samples": 1', b"\0" * 40, b"\xff\xfe", b"5", b"[1, 2]", b"null", b"\0\0" + lines[1]]
    run.metrics_path.write_bytes(b"\n".join([lines[0], *broken, *lines[2:]]) + b"\n")
    assert run.metrics() == whole_rows


@pytest.mark.parametrize("moment", ["experiment.yaml", "result.json"])
def test_a_run_that_was_killed_as_it_was_made_is_resumed_or_begun_again(
    whole: Run, lab: Any, tmp_path: Path, moment: str
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    if moment == "result.json":
        Run.create(experiment(), tmp_path / "made").path.joinpath("experiment.yaml").rename(run / "experiment.yaml")
    (run / f".{moment}.123.tmp").write_text("half")
    if moment == "experiment.yaml":
        assert "is not a run directory" in lab("resume", run).err
        done = lab("train", "classifier/digits-cnn", *OVERRIDES, "--out", run, "--quiet")
    else:
        done = lab("resume", run, "--quiet")
    assert done.code == 0, done.err
    assert_same_run(whole, Run.open(run))
    assert not list(run.rglob("*.tmp"))


def test_what_killed_writes_left_is_removed(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    left = [run.path / ".result.json.1.tmp", run.checkpoints / ".last.ckpt.1.tmp"]
    for path in left:
        path.write_text("half")
    lab_train.resume(run.path, "trainer.budget=4000")
    assert not any(path.exists() for path in left)


def write_images(path: Path, shift: int) -> None:
    x = np.random.default_rng(0).integers(0, 200, (200, 8, 8)).astype(np.uint8)
    y = np.arange(200) % 4
    np.savez(path, x_train=x + shift, y_train=y, x_test=x[:50], y_test=y[:50])


def write_text(path: Path, shift: int) -> None:
    path.write_text("".join(chr(97 + (i * i + shift * (i == 700)) % 26) for i in range(4000)))


def write_demonstrations(path: Path, shift: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    envs = InProcessEnvs([lambda: make_env("CartPole-v1")])
    recorder = EpisodeRecorder(path, "CartPole-v1", {}, envs.spec, "test")
    obs, episodes = envs.reset(shift), 0
    while episodes < 4:
        action = np.array([episodes % 2])
        step = envs.step(action)
        recorder.add(obs, action, step)
        episodes, obs = episodes + int(step.terminated[0]), step.obs


@pytest.mark.parametrize(
    ("words", "write"),
    [
        (["classifier/digits-cnn", "data.name={}.npz", "data.batch_size=16"], write_images),
        (["lm/reference-gru", "data.name={}.npz", "data.batch_size=4", "data.window=8"], write_text),
        (["bc/cartpole", "data.path={}.npz", "data.batch_size=16"], write_demonstrations),
    ],
    ids=["images", "text", "demonstrations"],
)
def test_changed_data_are_told(lab: Any, tmp_path: Path, words: list[str], write: Any) -> None:
    data, run = tmp_path / "data.npz", tmp_path / "run"
    words = [word.format(tmp_path / "data") for word in words]
    write(data, 0)
    done = lab("train", *words, "trainer.budget=640", "tracking.mode=disabled", "trainer.film=false", "--out", run)
    assert done.code == 0, done.err
    before = files_of(run / "checkpoints"), Run(run).metrics()
    write(data, 1)
    refused = lab("resume", run, "trainer.budget=1280", "--quiet")
    assert refused.code == 2
    assert "have changed since its last checkpoint" in refused.err
    assert str(data) in refused.err
    assert (files_of(run / "checkpoints"), Run(run).metrics()) == before
    write(data, 0)
    done = lab("resume", run, "trainer.budget=1280", "--quiet")
    assert done.code == 0, done.err


def test_a_changed_experiment_is_told(lab: Any, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run").path
    text = (run / "experiment.yaml").read_text()
    assert "  lr: 0.002\n" in text
    (run / "experiment.yaml").write_text(text.replace("  lr: 0.002\n", "  lr: 0.5\n"))
    done = lab("resume", run, "trainer.budget=4000", "--quiet")
    assert done.code == 0
    assert "goes on with module.optimizer.lr=0.5 (before: 0.002), trainer.budget=4000 (before: 3000)" in " ".join(
        (run / "log.txt").read_text().split()
    )
