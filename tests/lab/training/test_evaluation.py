"""Evaluations: given up where the run is to stop, made when it goes on, told where they take long."""

from __future__ import annotations

import io
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from lab.config.overrides import resolve
from lab.errors import Failure
from lab.experiment import Experiment
from lab.long_work import tell, told
from lab.runs.directory import Run
from lab.supervised.supervised import Supervised
from lab.training.progress import Progress, showing_work
from lab.training.train import Result, train

pytestmark = pytest.mark.slow
NUM_EVALUATIONS = 3


def experiment(**trainer: Any) -> Experiment:
    fields = {"budget": 3 * 1280, "eval_period": 1280, "num_threads": 1, "device": "cpu"} | trainer
    words = [f"trainer.{name}={value}" for name, value in fields.items()]
    return resolve("classifier/digits-cnn", [*words, "tracking.mode=disabled"])


def rows(run: Run) -> list[dict[str, Any]]:
    """Without what follows the clock."""
    return [{k: v for k, v in row.items() if k != "seconds" and "per_second" not in k} for row in run.metrics()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(experiment(), run_dir=tmp_path_factory.mktemp("whole") / "run").run


def train_and_stop_in(number: int, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> Result:
    """Train, and ask to stop in the middle of the evaluation of that number, counted from 1."""
    loops: list[Any] = []
    begun = 0
    inner = Supervised.evaluate

    def evaluate(self: Any, *given: Any, **options: Any) -> dict[str, float]:
        nonlocal begun
        begun += 1
        if begun == number:
            loops[0].ask_to_stop()
        return inner(self, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Supervised, "evaluate", evaluate)
        return train(on_loop=loops.append, **arguments)


@pytest.mark.parametrize("number", range(1, NUM_EVALUATIONS + 1))
def test_an_evaluation_that_is_given_up_is_made_when_the_run_goes_on(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    stopped = train_and_stop_in(number, monkeypatch, experiment=experiment(), run_dir=tmp_path / "run")
    assert stopped.status == "interrupted"
    assert stopped.run.result()["samples"] == number * 1280
    assert sum("eval/accuracy" in row for row in rows(stopped.run)) == number - 1
    again = train_and_stop_in(1, monkeypatch, experiment=experiment(), resume=Run.open(tmp_path / "run"))
    assert again.status == "interrupted"
    assert again.run.result()["samples"] == number * 1280
    done = train(experiment(), resume=Run.open(tmp_path / "run"))
    assert done.status == "completed"
    assert rows(done.run) == rows(whole)
    assert done.run.result()["best"] == whole.result()["best"]
    states = [torch.load(run.checkpoint("last"), weights_only=True)["state_dict"] for run in (whole, done.run)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_an_evaluation_given_up_when_time_was_out_is_the_last_thing_the_resumed_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = experiment(max_seconds=1e-6, budget=10**6)
    stopped = train_and_stop_in(1, monkeypatch, experiment=limited, run_dir=tmp_path / "run")
    assert stopped.status == "interrupted"
    done = train(limited, resume=Run.open(tmp_path / "run"))
    assert done.status == "completed"
    assert done.run.result()["samples"] == stopped.run.result()["samples"]
    assert sum("eval/accuracy" in row for row in rows(done.run)) == 1


def test_code_that_wants_to_end_the_process_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(self: Any, *given: Any, **options: Any) -> dict[str, float]:
        raise SystemExit(3)

    monkeypatch.setattr(Supervised, "evaluate", evaluate)
    with pytest.raises(Failure, match=r"wanted to end the process \(SystemExit: 3\)"):
        train(experiment(), run_dir=tmp_path / "run")
    assert Run.open(tmp_path / "run").result()["status"] == "failed"


def test_an_evaluation_that_is_no_number_is_never_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([math.nan, 0.5, math.inf, 0.5, math.nan])
    monkeypatch.setattr(Supervised, "evaluate", lambda *_, **__: {"eval/accuracy": next(values)})
    monkeypatch.setattr(Supervised, "pictures", lambda *_: {})
    result = train(experiment(budget=5 * 1280), run_dir=tmp_path / "run")
    assert result.best == {"metric": "eval/accuracy", "value": 0.5, "samples": 4 * 1280, "updates": 80}
    assert Run.open(tmp_path / "run").result()["best"] == result.best


def test_a_long_evaluation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Supervised.evaluate

    def evaluate(self: Any, *given: Any, **options: Any) -> dict[str, float]:
        for _ in told("thinking", range(4)):
            time.sleep(0.02)
        return inner(self, *given, **options)

    monkeypatch.setattr(Supervised, "evaluate", evaluate)
    monkeypatch.setattr("lab.training.progress._WORK_SECONDS", 0.01)
    screen = io.StringIO()
    train(experiment(budget=1280), run_dir=tmp_path / "run", progress=Progress(Console(file=screen)))
    assert "thinking: 25%" in screen.getvalue()


def test_warnings_are_shown_to_whoever_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Supervised.evaluate

    def evaluate(self: Any, *given: Any, **options: Any) -> dict[str, float]:
        self.warn_once("dead", f"the features are dead after {self.counters['samples']}")
        return inner(self, *given, **options)

    monkeypatch.setattr(Supervised, "evaluate", evaluate)
    screen = io.StringIO()
    run = train(experiment(), run_dir=tmp_path / "run", progress=Progress(Console(file=screen))).run
    assert screen.getvalue().count("the features are dead") == 1
    assert (run.path / "log.txt").read_text().count("WARNING the features are dead") == 1


def test_nobody_need_listen() -> None:
    tell("thinking", 1, 2)
    assert list(told("thinking", "abc")) == ["a", "b", "c"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_command_shows_long_work(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr("lab.training.progress._WORK_SECONDS", 0.0)
    monkeypatch.setattr("lab.training.progress._REFRESH_SECONDS", 0.0)
    screen = io.StringIO()
    with showing_work(Console(file=screen, force_terminal=terminal)):
        for _ in told("playing episodes", range(4)):
            time.sleep(0.15)  # a terminal shows some of them
    assert "playing episodes: 50%" in screen.getvalue()
    tell("nobody", 0, 1)
    assert "nobody" not in screen.getvalue()
