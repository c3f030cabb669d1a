"""Runs end cleanly and go on exactly: asked to stop, terminated, interrupted, killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.envs.make import InProcessEnvs, make_env
from agents.play.demonstrations import EpisodeRecorder
from lab.config.overrides import resolve
from lab.errors import UserError
from lab.experiment import Experiment
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training import train as lab_train
from lab.training.train import train

pytestmark = pytest.mark.slow
OVERRIDES = (
    "trainer.budget=20000",
    "trainer.eval_period=4000",
    "trainer.log_period=640",
    "trainer.num_threads=1",
    "trainer.device=cpu",
    "tracking.mode=disabled",
)
SLOW_DOWN = """
import sys, time
import lab.supervised.supervised as s
inner = s.Supervised.training_step
def slow(self, *arguments):
    if self.counters["samples"] >= 6000:
        time.sleep(0.5)
    return inner(self, *arguments)
s.Supervised.training_step = slow
from lab.cli import main
sys.exit(main(sys.argv[1:]))
"""


def experiment(*overrides: str) -> Experiment:
    return resolve("classifier/digits-cnn", [*OVERRIDES, *overrides])


def weights(run: Run, which: str = "last") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run.checkpoint(which), weights_only=True)["state_dict"]
    return state


def rows(run: Run) -> list[dict[str, Any]]:
    """Metrics but for what the clock says."""
    return [{k: v for k, v in row.items() if k != "seconds" and "per_second" not in k} for row in run.metrics()]


def assert_same_run(one: Run, other: Run) -> None:
    for which in ("last", "best"):
        for key, value in weights(one, which).items():
            assert torch.equal(value, weights(other, which)[key]), (which, key)
    assert rows(one) == rows(other)
    logged = [row["samples"] for row in rows(other) if "losses/cross_entropy" in row]
    assert logged == sorted(set(logged)), "a step stands there twice"
    first, second = one.result(), other.result()
    for key in ("status", "samples", "updates", "best"):
        assert first[key] == second[key]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nobody interrupted."""
    result = train(experiment(), run_dir=tmp_path_factory.mktemp("whole") / "run")
    assert result.status == "completed"
    return result.run


def start(run: Path, *words: str) -> subprocess.Popen[str]:
    """A lab command in a process of its own that is slow from 6,000 samples on."""
    return subprocess.Popen(
        [sys.executable, "-c", SLOW_DOWN, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path, samples: int) -> None:
    """Wait until `last` exists and training is past `samples`."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        written = Run(run).metrics() if (run / "checkpoints" / "last.ckpt").is_file() else []
        if written and written[-1]["samples"] >= samples:
            return
        time.sleep(0.05)
    raise AssertionError("no checkpoint within four minutes")


def train_words(run: Path) -> list[str]:
    return ["train", "classifier/digits-cnn", *OVERRIDES, "trainer.checkpoint_seconds=0.2", "--out", str(run)]


def test_asked_to_stop_and_resumed_twice(whole: Run, tmp_path: Path) -> None:
    chunks = iter([3, 20, 10**9])

    def stop_later(loop: Any) -> None:
        inner, left = loop.on_train_batch_end, [next(chunks)]

        def counted(*arguments: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                loop.ask_to_stop()
            inner(*arguments)

        loop.on_train_batch_end = counted

    result = train(experiment(), run_dir=tmp_path / "run", on_loop=stop_later)
    assert result.status == "interrupted"
    assert result.run.result()["status"] == "interrupted"
    assert train(experiment(), resume=result.run, on_loop=stop_later).status == "interrupted"
    assert train(experiment(), resume=result.run, on_loop=stop_later).status == "completed"
    # an extra row is logged where a run was stopped; all else is the same
    stops = {row["samples"] for row in rows(result.run)} - {row["samples"] for row in rows(whole)}
    assert stops == set()
    assert_same_run(whole, result.run)


def test_killed_and_resumed(whole: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, *train_words(run))
    wait_for_checkpoint(process, run, 7000)
    process.kill()
    process.wait()
    assert Run.open(run).result()["status"] == "running"
    assert not Run.open(run).is_alive()
    done = train(Run.open(run).experiment(), resume=Run.open(run))
    assert done.status == "completed"
    assert_same_run(whole, done.run)


def test_killed_while_it_starts_and_resumed_from_nothing(whole: Run, tmp_path: Path) -> None:
    run = Run.create(experiment(), tmp_path / "run")
    done = train(experiment(), resume=run)
    assert_same_run(whole, done.run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_run_saved_and_resumable(whole: Run, lab: Any, tmp_path: Path, number: signal.Signals) -> None:
    """While it runs, nobody else may train the run; after the signal anybody may."""
    run = tmp_path / "run"
    process = start(run, *train_words(run), "--quiet")
    wait_for_checkpoint(process, run, 7000)
    second = lab("resume", run)
    assert second.code == 2
    assert "is being trained by another process" in second.err
    process.send_signal(number)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert f"lab resume {run}" in out.replace("\n", "")
    assert Run.open(run).result()["status"] == "interrupted"
    done = train(Run.open(run).experiment(), resume=Run.open(run))
    assert done.status == "completed"
    assert_same_run(whole, done.run)


LONG_CHUNK = """
import sys, time
import lab.training.loop as loop
loop._PATIENCE_SECONDS = 0.3
import lab.supervised.supervised as s
inner = s.Supervised.training_step
def slow(self, *arguments):
    outputs = inner(self, *arguments)
    if self.counters["samples"] >= 6000:
        print("slow", flush=True)
        for _ in range({slices}):
            time.sleep(0.02)
    return outputs
s.Supervised.training_step = slow
from lab.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_long_chunk_is_given_up_and_repeated(whole: Run, lab: Any, tmp_path: Path) -> None:
    words = ["train", "classifier/digits-cnn", *OVERRIDES, "trainer.checkpoint_seconds=0.001"]
    command = [sys.executable, "-c", LONG_CHUNK.format(slices=10_000), *words, f"--out={tmp_path / 'run'}", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "slow\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    run = Run.open(tmp_path / "run")
    saved = checkpoint.load(run.last)["counters"]
    result = run.result()
    assert (result["status"], result["saved"]) == ("interrupted", True)
    assert {name: result[name] for name in saved} == saved
    assert saved["samples"] < 6000
    assert lab("resume", run.path, "--quiet").code == 0
    assert_same_run(whole, run)


SWALLOWS = """
import sys, time
import lab.training.loop as loop
loop._PATIENCE_SECONDS, loop._AGAIN_SECONDS = 0.3, 0.2
import lab.supervised.supervised as s
inner = s.Supervised.training_step
def slow(self, *arguments):
    if self.counters["samples"] >= 6000:
        print("slow", flush=True)
        try:
            time.sleep(600)
        except BaseException as error:
            {then}
    return inner(self, *arguments)
s.Supervised.training_step = slow
from lab.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("then", ["pass", "raise ValueError('the line is dead')", "time.sleep(600)"])
def test_code_that_catches_everything_saves_no_chunk_that_was_given_up(
    then: str, whole: Run, lab: Any, tmp_path: Path
) -> None:
    words = ["train", "classifier/digits-cnn", *OVERRIDES, "trainer.checkpoint_seconds=0.001"]
    command = [sys.executable, "-c", SWALLOWS.format(then=then), *words, f"--out={tmp_path / 'run'}", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    run = Run.open(tmp_path / "run")
    assert run.result()["status"] == "interrupted"
    assert checkpoint.load(run.last)["counters"]["samples"] == 6400
    assert lab("resume", run.path, "--quiet").code == 0
    assert_same_run(whole, run)


OUTLIVES = """
import os, signal, sys, time
from pathlib import Path
import lab
import lab.training.loop as loop
loop._PATIENCE_SECONDS = 1.0
import lab.supervised.supervised as s
def dead(self, *arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    raise ValueError("the line is dead")
s.Supervised.training_step = dead
try:
    lab.train(lab.recipe("classifier/digits-cnn", "tracking.mode=disabled"), run_dir=Path(sys.argv[1]))
except ValueError:
    time.sleep(2)
    print("alive")
"""


def test_a_signal_that_a_failed_run_got_does_not_come_after_it(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", OUTLIVES, str(tmp_path / "run")], capture_output=True, text=True, timeout=100
    )
    assert (ended.returncode, ended.stdout) == (0, "alive\n"), ended.stderr


def test_a_long_chunk_is_waited_for_where_what_was_before_it_is_not_saved(tmp_path: Path) -> None:
    words = ["train", "classifier/digits-cnn", *OVERRIDES, "trainer.checkpoint_seconds=1000"]
    command = [sys.executable, "-c", LONG_CHUNK.format(slices=100), *words, f"--out={tmp_path / 'run'}", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
        process.stdout.readline()
        saved = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.ckpt")["counters"]["samples"]
        assert saved >= 6000  # after the first long one
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "last.ckpt")["counters"]["samples"] == saved


def test_a_completed_run_is_not_trained_further(whole: Run, lab: Any) -> None:
    before = rows(whole), weights(whole)
    done = lab("resume", whole.path, "--quiet")
    assert done.code == 0, done.err
    assert rows(whole) == before[0]
    assert all(torch.equal(value, weights(whole)[key]) for key, value in before[1].items())
    assert whole.result()["status"] == "completed"


def test_a_larger_budget_goes_on_where_the_run_ended(lab: Any, tmp_path: Path) -> None:
    small = train(experiment("trainer.budget=2000"), run_dir=tmp_path / "run")
    done = lab("resume", small.run.path, "trainer.budget=4000", "--quiet")
    assert done.code == 0, done.err
    assert small.run.result()["samples"] >= 4000
    assert small.run.experiment().trainer.budget == 4000
    logged = [row["samples"] for row in rows(small.run) if "losses/cross_entropy" in row]
    assert logged == sorted(set(logged))


def test_overrides_that_do_not_fit_the_checkpoint_leave_the_run_as_it_was(lab: Any, tmp_path: Path) -> None:
    run = train(experiment("trainer.budget=1500"), run_dir=tmp_path / "run").run
    kept = (run.path / "experiment.yaml").read_text(), run.result()
    for override in (
        "module.backbone.hidden=7",
        "module.kind=nonsense",
        "trainer.device=tpu",
        "module.optimizer.name=sgd",
    ):
        done = lab("resume", run.path, override, "trainer.budget=3000", "--quiet")
        assert done.code == 2, (override, done)
        assert done.err.count("\n") == 1
        assert (run.path / "experiment.yaml").read_text() == kept[0], override
        assert run.result()["status"] == "completed"
    assert lab("resume", run.path, "trainer.budget=3000", "--quiet").code == 0


def test_result_json_says_what_the_run_was(whole: Run) -> None:
    result = json.loads((whole.path / "result.json").read_text())
    assert result["recipe"] == "classifier/digits-cnn"
    assert result["status"] == "completed"
    assert result["seed"] == 0
    assert result["samples"] >= 20000
    assert result["seconds"] > 0
    assert result["best"]["metric"] == "eval/accuracy"
    assert result["metrics"]["eval/accuracy"] > 0.9
    assert {"python", "torch", "lightning", "lab"} <= set(result["versions"])
    assert "git" in result
    for name in ("experiment.yaml", "metrics.jsonl", "log.txt", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert (whole.path / name).is_file(), name


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
