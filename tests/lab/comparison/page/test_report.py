"""What others call: the table and the report folder; the command."""

from __future__ import annotations

import json

import pytest
import yaml
from PIL import Image
from rich.console import Console

from lab.comparison.comparison import compare
from lab.comparison.page.report import comparison_table, write_report
from lab.errors import UserError
from lab.runs.directory import Run, find
from tests.lab.comparison.synthetic import make_demo, make_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder)
    return find([str(folder)])


def printed(renderable, width=140):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(renderable)
    return console.export_text()


def test_the_table_has_a_section_a_task_and_the_best_first(runs):
    text = printed(comparison_table(runs))
    assert text.index("CartPole-v1: eval/return") < text.index("digits: eval/nll")
    assert text.index("gamma=0.99") < text.index("gamma=0.97") < text.index("gamma=0.9 ")
    assert text.index("pixelcnn/digits") < text.index("vae/digits")
    assert "IQM" in text


def test_the_table_fits_a_small_terminal(runs):
    for line in printed(comparison_table(runs), width=100).splitlines():
        assert len(line) <= 100


def test_a_run_that_cannot_be_read_is_left_out_of_many_and_named(tmp_path, caplog):
    first, second = (make_run(tmp_path, seed=seed) for seed in range(2))
    old = first.path / "result.json"
    old.write_text(json.dumps(json.loads(old.read_text()) | {"format": 1}))
    assert [run.path for run in find([str(tmp_path)])] == [second.path]
    assert "left out: run" in caplog.text
    assert "written in format 1" in caplog.text
    with pytest.raises(UserError, match="written in format 1"):
        find([str(first.path)])


@pytest.mark.slow
def test_the_report_folder(runs, tmp_path):
    extra = tmp_path / "interpolation.png"
    Image.new("L", (40, 8), 90).save(extra)
    vae = next(run for run in runs if "vae" in run.path.name)
    page = write_report(runs, tmp_path / "report", title="Demo", extra_media={vae.path: [extra]})
    assert page == tmp_path / "report" / "report.html"
    names = {str(path.relative_to(tmp_path / "report")) for path in (tmp_path / "report").rglob("*.*")}
    assert {"curve-CartPole-v1-eval-return.png", "curve-digits-eval-nll.png"} <= names
    assert {f"media/{vae.path.name}/{name}.png" for name in ("samples", "reconstructions", "interpolation")} <= names
    assert sum(name.endswith("episode.gif") for name in names) == 3
    assert Image.open(tmp_path / "report" / "curve-digits-eval-nll.png").size[0] > 1000
    write_report(runs[:1], tmp_path / "report")  # again, over the old one


def test_a_report_that_cannot_be_written_says_so(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match="could not be written"):
        write_report(runs[:1], tmp_path / "file" / "report")


def test_the_command(lab, tmp_path):
    for seed in range(3):
        make_run(tmp_path / "sweep", seed=seed, quality=1 + seed / 10)
    done = lab("compare", tmp_path / "sweep", "--threshold", "300")
    assert done.code == 0
    assert "dqn/cartpole" in done.out
    assert "3/3" in done.out
    done = lab("compare", f"{tmp_path}/sw*/*", "--json", "--html", tmp_path / "page.html")
    (section,) = json.loads(done.out)["sections"]
    assert section["groups"][0]["iqm"]["low"] <= section["groups"][0]["iqm"]["value"]
    assert len(section["groups"][0]["runs"]) == 3
    assert (tmp_path / "page.html").stat().st_size < 6e6
    assert done.err == f"written: {tmp_path / 'page.html'}\n"


@pytest.mark.parametrize("width", [60, 70, 80, 100, 140])
def test_a_narrow_terminal_keeps_names_and_numbers(tmp_path, width):
    runs = [make_run(tmp_path / f"{i}", seed=i % 2, quality=1 + i / 10) for i in range(4)]
    for i, run in enumerate(runs):
        config = yaml.safe_load((run.path / "experiment.yaml").read_text())
        config["module"]["gamma"] = 0.9 + (i // 2) / 100
        (run.path / "experiment.yaml").write_text(yaml.safe_dump(config))
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(compare(*runs, threshold=300))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= width
    assert text.count("dqn/cartpole") == 2
    assert text.count("gamma=0.9") == 2
    assert "605.8 [570, 641.6]" in text
    assert "…" not in text
    assert ("seconds" in text) == (width >= 140)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/nowhere/at/all"], "there is no run"),
        (["RUNS", "--metric", "eval/x"], "Valid choices: eval/return"),
        (["RUNS", "--html", "/proc/x/page.html"], "could not be written"),
    ],
)
def test_bad_input_is_one_sentence(lab, tmp_path, words, said):
    make_run(tmp_path / "runs")
    done = lab("compare", *(str(tmp_path / "runs") if word == "RUNS" else word for word in words))
    assert done.code in (1, 2)
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_damaged_run_is_named(lab, tmp_path):
    run = make_run(tmp_path / "runs")
    (run.path / "result.json").write_text("{")
    done = lab("compare", tmp_path / "runs")
    assert (done.code, "damaged" in done.err) == (2, True)


def test_a_run_that_nobody_trains_any_more_is_not_running(tmp_path):
    from lab.comparison.records import read

    run = make_run(tmp_path, status="running")
    assert read(run).status == "stopped"
    run.lock()
    assert read(Run(run.path)).status == "running"
    run.unlock()


def test_no_run_was_evaluated(tmp_path):
    run = make_run(tmp_path)
    run.metrics_path.unlink()
    with pytest.raises(UserError, match="nothing to compare"):
        comparison_table([run])
