"""Sweeps on a real cluster: same numbers as by hand, workers reused, failures survived, driver killed and resumed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.sweep.conduct import conduct, report
from cluster.sweep.search import make_search
from cluster.sweep.space import parse
from cluster.sweep.sweep import Sweep, SweepConfig, SweepEntry
from lab import catalog
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.train import train

SMALL = "recipes_for_tests:small"
SLEEPY = "recipes_for_tests:sleepy"


@pytest.fixture(autouse=True)
def _recipes_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    catalog.allow_import("recipes_for_tests")


def make(path: Path, *overrides: str, **settings: Any) -> Sweep:
    config = SweepConfig(name="test", targets=(SMALL,), overrides=overrides, imports=("recipes_for_tests",), **settings)
    return Sweep.create(path / "sweep", config)


def rows(path: Path) -> list[dict[str, Any]]:
    """A run's metrics without the clock."""
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "charts/steps_per_second")}
        for row in Run(path).metrics()
    ]


def in_background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def wait_for(condition: Callable[[], Any], seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def holder(path: Path) -> int | None:
    """The process that holds a run's lock."""
    lock = path / ".lock"
    if not lock.is_file():
        return None
    inode = lock.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) == inode:
            return int(fields[4])
    return None


def test_runs_are_the_same_as_by_hand_and_workers_are_reused(cluster: Any, tmp_path: Path) -> None:
    sweep = make(tmp_path, "module.optimizer.lr=1e-3,2e-3", "trainer.budget=6400", seeds=2)
    pids: dict[str, set[int]] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for entry in sweep.entries:
                pid = holder(sweep.run_path(entry))
                if pid:
                    pids.setdefault(entry.folder, set()).add(pid)
            time.sleep(0.05)

    thread = in_background(watch)
    assert report(sweep, conduct(cluster, sweep, quiet=True)) == 0
    done.set()
    thread.join()
    assert [entry.status for entry in sweep.entries] == ["completed"] * 4
    assert len(set().union(*pids.values())) <= 2 < len(pids)
    for entry in sweep.entries:
        result = sweep.result(entry)
        assert result is not None
        assert result["status"] == "completed"
        experiment = Run(sweep.run_path(entry)).experiment()
        assert experiment.tracking.group == "test"
        assert experiment.seed == entry.seed
        assert f"{experiment.module.optimizer.lr:g}" == f"{float(entry.values['module.optimizer.lr']):g}"  # type: ignore[attr-defined]
    last = sweep.entries[-1]  # not the first run of its worker
    by_hand = train(Run(sweep.run_path(last)).experiment(), run_dir=tmp_path / "by-hand")
    assert rows(by_hand.run.path) == rows(sweep.run_path(last))
    summary = json.loads((sweep.path / "summary.json").read_text())
    assert [len(group["scores"]) for group in summary["groups"]] == [2, 2]


def test_a_killed_worker_costs_nothing_and_a_bad_run_only_itself(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make(tmp_path, "module.optimizer.lr=1e-3,1e30", "trainer.budget=64000")

    def kill_one() -> None:
        path = wait_for(lambda: sweep.entries and sweep.run_path(sweep.entries[0]))
        wait_for(lambda: (path / "checkpoints" / "last.ckpt").is_file())
        os.kill(wait_for(lambda: holder(path)), signal.SIGKILL)

    thread = in_background(kill_one)
    assert report(sweep, conduct(cluster, sweep, quiet=True)) == 1
    thread.join()
    good, bad = sweep.entries
    assert (good.status, good.attempts) == ("completed", 2)
    assert (bad.status, bad.attempts) == ("failed", 1)
    output = capsys.readouterr().err
    assert f"{good.folder}: its worker died; it goes on from its last checkpoint (attempt 2 of 3)" in output
    assert "losses/cross_entropy became" in bad.error
    assert output.count("\n") == 2
    undisturbed = train(Run(sweep.run_path(good)).experiment(), run_dir=tmp_path / "undisturbed")
    assert rows(undisturbed.run.path) == rows(sweep.run_path(good))


def test_a_hanging_run_is_ended_and_retried(cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make(tmp_path, "trainer.budget=64000", hang_seconds=12)

    def hang() -> None:
        path = wait_for(lambda: sweep.entries and sweep.run_path(sweep.entries[0]))
        wait_for(lambda: (path / "checkpoints" / "last.ckpt").is_file())
        os.kill(wait_for(lambda: holder(path)), signal.SIGSTOP)

    thread = in_background(hang)
    assert report(sweep, conduct(cluster, sweep, quiet=True)) == 0
    thread.join()
    assert sweep.entries[0].attempts == 2
    output = capsys.readouterr().err
    assert "it gave no sign of life for" in output
    assert "it goes on from its last checkpoint (attempt 2 of 3)" in output
    assert output.count("\n") == 1


def test_a_run_of_several_workers(cluster: Any, tmp_path: Path) -> None:
    sweep = make(tmp_path, "trainer.budget=1280", "trainer.num_workers=2")
    assert report(sweep, conduct(cluster, sweep, quiet=True)) == 0
    assert [(sweep.result(entry) or {})["workers"] for entry in sweep.entries] == [2]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start("sweep", ...)`: a lab command in a process group of its own, killed when the test ends."""
    started: list[subprocess.Popen[str]] = []
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]

    def run(*words: object) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "lab.cli", *map(str, words)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_interrupted_then_killed_then_resumed_ends_as_if_undisturbed(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], processes: Any
) -> None:
    out = tmp_path / "sweep"
    words = (SMALL, "--seeds", 2, "trainer.budget=64000", "--out", out)
    paths = [out / "runs" / f"{i:03}-small-s{i}" for i in range(2)]

    driver = start("sweep", *words)
    wait_for(lambda: any((path / "checkpoints" / "last.ckpt").is_file() for path in paths))
    family = processes.family(driver.pid)
    os.killpg(driver.pid, signal.SIGINT)  # what Ctrl-C in a terminal does
    output, _ = driver.communicate(timeout=180)
    assert driver.returncode == 130
    assert f"go on with: lab resume {out}" in output
    wait_for(lambda: not processes.alive(family), 60)
    state = [SweepEntry.model_validate(entry) for entry in json.loads((out / "state.json").read_text())]
    assert [entry.status for entry in state] == ["waiting", "waiting"]

    before = [path.joinpath("metrics.jsonl").stat().st_size for path in paths if path.is_dir()]
    driver = start("resume", out)
    wait_for(lambda: [p.joinpath("metrics.jsonl").stat().st_size for p in paths if p.is_dir()] > before)
    family = processes.family(driver.pid)
    driver.kill()
    driver.communicate()
    wait_for(lambda: not processes.alive(family), 60)

    driver = start("resume", out, "--quiet")
    output, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, output
    catalog.allow_import("recipes_for_tests")
    for path in paths:
        undisturbed = train(Run(path).experiment(), run_dir=tmp_path / f"undisturbed-{path.name}")
        expected, actual = rows(undisturbed.run.path), rows(path)
        assert [row for row in actual if row in expected] == expected
        assert len(actual) <= len(expected) + 1  # Ctrl-C adds the row of the chunk that it ended on


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_long_chunks_are_given_up_and_repeated(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    out = tmp_path / "sweep"
    driver = start("sweep", SLEEPY, "--seeds", 2, "--out", out)
    runs = [Run(out / "runs" / f"{i:03}-sleepy-s{i}") for i in range(2)]
    for run in runs:
        wait_for(lambda last=run.last: last.is_file() and checkpoint.load(last)["counters"]["samples"] > 5000)
    driver.terminate()
    began = time.monotonic()
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    assert time.monotonic() - began < 30
    for run in runs:
        saved, result = checkpoint.load(run.last)["counters"], run.result()
        assert result["status"] == "interrupted"
        assert {name: result[name] for name in saved} == saved
        assert saved["samples"] <= 6400
    driver = start("resume", out, "module.seconds=0", "--import", "recipes_for_tests", "--quiet")
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 0, output
    catalog.allow_import("recipes_for_tests")
    for run in runs:
        undisturbed = train(run.experiment(), run_dir=tmp_path / f"undisturbed-{run.path.name}").run
        assert rows(undisturbed.path) == rows(run.path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seeds", 2], "needs a recipe"),
        (["dqn/cartpol"], "unknown recipe 'dqn/cartpol'. Did you mean 'dqn/cartpole'?"),
        ([SMALL, "module.optimizer.lrr=1,2"], "unknown field"),
        ([SMALL, "trainer.budget=100,x"], "trainer.budget='x' is not valid"),
        ([SMALL, "--seeds", 0], "--seeds 0 is not valid"),
        ([SMALL, "--cpus-per-run", 500], "each run needs 500 CPU"),
        ([SMALL, "--cpus-per-run", "nan"], "--cpus-per-run nan is not valid"),
        ([SMALL, "--gpus-per-run", "inf"], "--gpus-per-run inf is not valid"),
        ([SMALL, "--gpus-per-run", 0.5], "each run needs 1 CPU and 0.5 GPU on one machine; the cluster has 2 CPU"),
        ([SMALL, "trainer.num_workers=4"], "a run of small needs 4 CPU in all; the cluster has 2 CPU"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    lab: Callable[..., Any], tmp_path: Path, words: list[object], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.session import session

    monkeypatch.setattr(session, "_start", lambda *arguments: None)
    monkeypatch.setattr(session, "guard", contextlib.nullcontext)  # it would end the agents of the tests' own cluster
    monkeypatch.setattr(session, "own_processes", lambda: lambda: True)
    monkeypatch.setattr(session, "_shutdown", lambda: None)
    monkeypatch.setattr(session.Session, "nodes", lambda self: [session.Resources(2, 0)])
    monkeypatch.setattr(session.Session, "possible", session.Session.slots)
    done = lab("sweep", *words, "--out", tmp_path / "sweep")
    assert done.code == 2
    assert sentence in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "sweep").exists()


def test_an_existing_folder_is_not_touched(lab: Callable[..., Any], tmp_path: Path) -> None:
    make(tmp_path)
    done = lab("sweep", SMALL, "--out", tmp_path / "sweep")
    assert done.code == 2
    assert "lab resume" in done.err


def test_only_a_run_that_has_reached_its_budget_counts_as_ended(cluster: Any, tmp_path: Path) -> None:
    """A driver that was killed had not written down that its first run was completed and its second one interrupted."""
    sweep = make(tmp_path, "trainer.budget=6400", seeds=2)
    space = parse(sweep.settings.overrides)
    sweep.entries = make_search(sweep, space).propose(2)
    paths = [sweep.run_path(entry) for entry in sweep.entries]
    ended, cut = (sweep.experiment(entry, space.fixed) for entry in sweep.entries)
    train(ended, run_dir=paths[0])
    assert train(cut, run_dir=paths[1], on_loop=lambda loop: loop.ask_to_stop()).status == "interrupted"
    before = {path: path.read_bytes() for path in sorted(paths[0].rglob("*")) if path.is_file()}

    assert report(sweep, conduct(cluster, sweep, quiet=True)) == 0
    assert [(entry.status, entry.attempts) for entry in sweep.entries] == [("completed", 0), ("completed", 1)]
    assert {path: path.read_bytes() for path in before} == before
    assert rows(paths[1]) == rows(train(cut, run_dir=tmp_path / "undisturbed").run.path)

    for entry in sweep.entries:  # as for `lab resume SWEEP trainer.budget=...`
        entry.status, entry.attempts = "waiting", 0
    sweep.forget_experiments()
    assert report(sweep, conduct(cluster, sweep, ["trainer.budget=12800"], quiet=True)) == 0
    results = [Run(path).result() for path in paths]
    assert [(result["samples"], result["budget"]) for result in results] == [(12_800, 12_800)] * 2


@pytest.mark.slow
def test_a_run_that_died_before_its_first_checkpoint_holds_no_step_twice(tmp_path: Path) -> None:
    from cluster.ranks.worker import Worker
    from cluster.session.imports import Imports
    from lab.config import serialization
    from lab.config.overrides import resolve

    experiment = resolve(SMALL, ["trainer.budget=2000"])
    first = train(experiment, run_dir=tmp_path / "run")
    undisturbed = rows(first.run.path)
    for file in first.run.checkpoints.iterdir():
        file.unlink()
    (first.run.path / "result.json").unlink()
    outcome = Worker(Imports([], []), {}, 0.0).train(serialization.dump(experiment), str(first.run.path))
    assert outcome.status == "completed", outcome
    assert rows(first.run.path) == undisturbed
