"""What `import lab` gives, in a script and typed."""

from __future__ import annotations

import io
import re
from importlib import import_module
from pathlib import Path

import pytest
from rich.console import Console

import lab
from lab.training import progress
from lab.training.status import Status

QUICK = ["trainer.budget=1280", "trainer.eval_period=640", "tracking.mode=disabled"]


def test_the_stub_has_each_name_where_it_is_defined() -> None:
    stub = Path(lab.__file__).with_name("__init__.pyi").read_text(encoding="utf-8")
    typed = {name: module for module, name in re.findall(r"^from ([\w.]+) import (\w+) as \2$", stub, re.MULTILINE)}
    assert typed == lab._EXPORTS


def test_no_module_bears_the_name_of_a_function() -> None:
    for name, module in lab._EXPORTS.items():
        import_module(module)
        value = getattr(lab, name)
        assert (value.__name__, value.__module__) == (name, module)
        with pytest.raises(ModuleNotFoundError):
            import_module(f"lab.{name}")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> lab.Result:
    return lab.train(lab.recipe("classifier/digits-cnn", *QUICK), run_dir=tmp_path_factory.mktemp("python") / "run")


def test_a_run_is_trained_evaluated_and_compared(result: lab.Result, tmp_path: Path) -> None:
    assert result.status == "completed"
    assert result.best == result.run.result()["best"]
    metrics = lab.evaluate(result.run)
    assert metrics == lab.evaluate(result.run.path)
    assert 0.2 < metrics["eval/accuracy"] <= 1
    experiment, _, module, checkpoint = lab.restore(str(result.run.path), "last")
    assert experiment == result.run.experiment()
    assert module.counters["samples"] == 0  # weights alone
    assert checkpoint["counters"]["samples"] == 1280
    comparison = lab.compare(result.run)
    assert "classifier/digits-cnn" in str(comparison)
    assert comparison.to_dict()["sections"][0]["metric"] == "eval/accuracy"
    comparison.write_page(tmp_path / "page.html")
    assert "classifier/digits-cnn" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_run_goes_on_with_other_fields_and_reports_each_evaluation(tmp_path: Path) -> None:
    first = lab.train(lab.recipe("classifier/digits-cnn", *QUICK), run_dir=tmp_path / "run")
    rows: list[dict[str, float]] = []
    longer = lab.resume(first.run, "trainer.budget=2560", on_evaluation=rows.append)
    assert [row["samples"] for row in rows] == [1920, 2560]
    evaluations = [row["eval/accuracy"] for row in longer.run.metrics() if "eval/accuracy" in row]
    assert [row["eval/accuracy"] for row in rows] == evaluations[-2:]
    assert all("losses/cross_entropy" in row for row in rows)


def test_progress_goes_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab.train(lab.recipe("classifier/digits-cnn", *QUICK), run_dir=tmp_path / "run", progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1,280 samples on cpu" in captured.err
    assert "1,280/1,280 samples" in captured.err


def test_bad_input_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(lab.UserError, match="Did you mean 'dqn/cartpole'"):
        lab.recipe("dqn/cartpol")
    with pytest.raises(lab.UserError, match="there is no run"):
        lab.resume(tmp_path / "none")
    with pytest.raises(lab.UserError, match="episodes=0"):
        lab.evaluate(tmp_path, episodes=0)


def test_completion_offers_the_public_names() -> None:
    assert set(lab.__all__) <= set(dir(lab))
    assert not {"Any", "annotations", "import_module"} & set(dir(lab))


def test_runs_are_compared_one_by_one_or_as_a_list(result: lab.Result) -> None:
    assert lab.compare([result.run]).to_dict() == lab.compare(result.run).to_dict()
    assert lab.compare([result.run, str(result.run.path)]).num_runs == 1


@pytest.mark.parametrize("widgets", [False, True])
def test_a_notebook_without_widgets_gets_lines(widgets: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "find_spec", lambda name: object() if widgets else None)
    console = Console(file=io.StringIO(), force_jupyter=True)
    monkeypatch.setattr(console, "print", lambda *words, **options: None)
    shown = progress.Progress(console)
    monkeypatch.setattr(progress.Bar, "start", lambda self: None)
    shown.start(Status("a", 0, Path("run"), "cpu", "samples", 0, 10, 0.0, {}, "eval/accuracy"))
    assert (shown._bar is not None) == widgets
