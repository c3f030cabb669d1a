"""The command line: help, exit codes, one sentence for every mistake, nothing overwritten."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lab import catalog
from lab.config import serialization
from lab.config.overrides import resolve
from lab.errors import Failure
from lab.runs.directory import FORMAT, Run
from lab.training.train import train

Lab = Callable[..., Any]
RECIPE = "classifier/digits-cnn"
QUICK = ["trainer.budget=1300", "trainer.num_threads=1", "tracking.mode=disabled"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small completed run."""
    return train(resolve(RECIPE, QUICK), run_dir=tmp_path_factory.mktemp("cli") / "run").run.path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the small run."""
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def assert_one_sentence(done: Any, code: int, *parts: str) -> None:
    assert done.code == code, done
    assert done.err.startswith("lab: "), done.err
    assert done.err.count("\n") == 1, done.err
    assert "Traceback" not in done.err
    for part in parts:
        assert part in done.err, done.err


@pytest.mark.parametrize("command", sorted(catalog.commands()))
def test_every_command_explains_each_option_and_gives_an_example(lab: Lab, command: str) -> None:
    done = lab(command, "--help")
    assert done.code == 0
    assert f"lab {command}" in done.out.partition("options:")[2]
    options = done.out.partition("options:")[2].partition("example:")[0]
    for line in options.splitlines():
        if line.strip().startswith("-") and not line.strip().startswith("-h"):
            following = options.splitlines()[options.splitlines().index(line) + 1 :][:1]
            explained = len(line.split("  ")) > 2 or (following and following[0].startswith(" " * 20))
            assert explained, f"{command}: {line.strip()} is not explained"


def test_help_names_every_command(lab: Lab) -> None:
    done = lab("--help")
    assert done.code == 0
    for command in catalog.commands():
        assert f"  {command} " in done.out


def test_a_tree_that_is_not_installed_has_the_commands_and_recipes_of_its_packages(tmp_path: Path) -> None:
    """A submitted job, a machine with a GPU: there is no metadata, and perhaps not every package."""
    root = Path(catalog.__file__).parent
    for package in ("lab", "agents"):
        shutil.copytree(root.parent / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))

    def printed(*words: str) -> str:
        command = [sys.executable, "-S", "-m", "lab.cli", *words]  # without the folder of installed packages
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    commands = printed("--help").partition("commands:")[2]
    assert [name for name in ("train", "play", "sweep", "sample") if f"\n  {name} " in commands] == ["train", "play"]
    recipes = printed("list", "recipes")
    assert "dqn/cartpole" in recipes
    assert "vae/digits" not in recipes


def test_help_has_the_commands_in_their_order() -> None:
    """From training to looking at what came out; the order is a number in each command's file, each its own."""
    commands = catalog.commands()
    assert list(commands)[:5] == ["train", "resume", "evaluate", "predict", "play"]
    assert list(commands)[-3:] == ["list", "show", "completion"]
    assert len({command.order for command in commands.values()}) == len(commands)
    assert all(command.summary and "\n" not in command.summary for command in commands.values())


def test_list(lab: Lab) -> None:
    done = lab("list")
    assert done.code == 0
    for name in (RECIPE, "lm/reference-gru", "mlp", "lstm", "resnet", "digits", "tiny-shakespeare"):
        assert name in done.out.split()
    listed = json.loads(lab("list", "recipes", "--json").out)
    assert all(isinstance(line, str) and line for line in listed["recipes"].values())
    assert lab("list", "nonsense").code == 2


def test_runs_are_listed_by_word_or_option(lab: Any, tmp_path: Path) -> None:
    """What a sentence about a missing run says works when it is pasted."""
    run = train(resolve("classifier/digits-cnn", ["trainer.budget=640", "tracking.mode=disabled"])).run
    for words in (("runs",), ("--runs",), ("runs", "--runs")):
        listed = lab("list", *words, "--json")
        assert list(json.loads(listed.out)["runs"]) == [str(run.path)], words
    assert "asks for two lists" in lab("list", "recipes", "--runs").err
    assert "lab list --runs" in lab("evaluate", tmp_path / "nowhere").err


def test_what_show_prints_train_takes_back(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(lab("show", RECIPE, *QUICK, "seed=3").out, encoding="utf-8")
    done = lab("train", path, "seed=4", "--quiet", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    expected = resolve(RECIPE, [*QUICK, "seed=4"])
    assert Run.open(tmp_path / "run").experiment() == expected
    assert yaml.safe_load(lab("show", tmp_path / "run").out) == serialization.dump(expected)


def test_train_makes_a_fresh_directory_below_lab_runs(lab: Lab, tmp_path: Path) -> None:
    for _ in range(2):
        assert lab("train", RECIPE, *QUICK, "--quiet").code == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2
    listed = lab("list", "runs")
    assert listed.out.count("completed") == 2


def test_evaluate_prints_numbers(lab: Lab, trained: Path) -> None:
    done = lab("evaluate", trained, "--json")
    assert done.code == 0
    printed = json.loads(done.out)
    assert set(printed["metrics"]) == {"eval/accuracy", "eval/cross_entropy", "eval/f1", "eval/calibration_error"}
    assert printed["split"] == "test"
    assert json.loads(lab("evaluate", trained, "--json").out) == printed
    assert "eval/accuracy" in lab("evaluate", trained, "--checkpoint", "last", "--split", "val").out


def test_evaluating_leaves_the_run_as_it_was(lab: Lab, run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert lab("evaluate", run).code == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_an_unknown_command_names_the_nearest(lab: Lab) -> None:
    assert_one_sentence(lab("trian"), 2, "'trian'", "Did you mean 'train'")


def test_a_field_with_dashes_is_shown_without(lab: Lab) -> None:
    assert_one_sentence(lab("train", RECIPE, "--seed=3", "trainer.budget=5"), 2, "'--seed=3'", "without dashes: seed=3")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "clasifier/digits-cnn"],
        ["train", RECIPE, "trainer.budget=-5"],
        ["train", RECIPE, "trainer.budgt=5"],
        ["train", RECIPE, "seed=99999999999999999999"],
        ["train", RECIPE, "trainer.device=cuda:7"],
        ["train", RECIPE, "trainer.device=tpu"],
        ["train", RECIPE, "data.name=/nonexistent"],
        ["train", RECIPE, "data.name=mnist", "data.root=/nonexistent"],
        ["train", RECIPE, "module.backbone.name=nature_cnn"],
        ["train", RECIPE, "module.backbone.hidden=-3"],
        ["train", RECIPE, "module.backbone.channels=[0,2]"],
        ["train", RECIPE, "module.backbone.channels=[1,2,3]"],
        ["train", RECIPE, "name=../../escape", "trainer.budget=zero"],
        ["train", "nosuch:thing"],
        ["train", "missing.yaml"],
        ["show", RECIPE, "a=b=c"],
        ["evaluate", "nothing-here"],
        ["resume", "nothing-here"],
        ["play", "nothing-here"],
        ["sample", "nothing-here"],
        ["compare", "nothing-here"],
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(lab: Lab, tmp_path: Path, words: list[str]) -> None:
    assert_one_sentence(lab(*words), 2)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("episodes", ["0", "-1"])
def test_episodes_must_be_a_number_of_episodes(lab: Lab, trained: Path, episodes: str) -> None:
    assert_one_sentence(lab("evaluate", trained, "--episodes", episodes), 2, f"episodes={episodes}")


def test_what_changes_nothing_of_a_complete_run_is_refused(lab: Lab, run: Path) -> None:
    before = (run / "experiment.yaml").read_bytes()
    done = lab("resume", run, "module.optimizer.lr=0.5")
    assert done.code == 2
    assert "is complete: module.optimizer.lr=0.5 changes nothing that is still to train" in done.err
    assert (run / "experiment.yaml").read_bytes() == before


def test_a_run_directory_that_exists_is_never_overwritten(lab: Lab, run: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert_one_sentence(lab("train", RECIPE, *QUICK, "--out", run), 2, "exists already", "lab resume")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    file = tmp_path / "file"
    file.write_text("precious")
    assert_one_sentence(lab("train", RECIPE, *QUICK, "--out", file), 2, "exists already")
    assert_one_sentence(lab("train", RECIPE, *QUICK, "--out", file / "below"), 2, "cannot be made")
    assert file.read_text() == "precious"
    assert lab("train", RECIPE, *QUICK, "--quiet", "--out", tmp_path / "new" / "deep").code == 0


def test_a_runs_folder_that_cannot_be_made(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "file" / "runs"))
    assert_one_sentence(lab("train", RECIPE, *QUICK), 2, "cannot be made")


@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_a_run_of_another_format_is_refused(lab: Lab, run: Path, command: str) -> None:
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "format": FORMAT - 1}))
    assert_one_sentence(lab(command, run), 2, f"format {FORMAT - 1}", f"reads format {FORMAT}")


@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_damaged_runs_are_one_sentence(lab: Lab, run: Path, command: str) -> None:
    whole = {name: (run / name).read_bytes() for name in ("result.json", "experiment.yaml")}
    for name, content in (("result.json", b"{"), ("result.json", b"[]"), ("experiment.yaml", b"module: [")):
        (run / name).write_bytes(content)
        done = lab(command, run, "trainer.budget=1400")
        if name == "result.json" or command == "resume":
            assert_one_sentence(done, 2)
        (run / name).write_bytes(whole[name])
    for which in ("best", "last"):
        path = run / "checkpoints" / f"{which}.ckpt"
        path.write_bytes(path.read_bytes()[:1000])
    assert_one_sentence(lab(command, run), 2, "damaged")
    shutil.rmtree(run / "checkpoints")
    if command == "evaluate":
        assert_one_sentence(lab(command, run), 2, "no checkpoint")


def test_a_metrics_file_cut_short_does_not_matter(lab: Lab, run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"samples": 13')
    assert lab("resume", run, "trainer.budget=2000", "--quiet").code == 0
    samples = [row["samples"] for row in Run(run).metrics() if "losses/cross_entropy" in row]
    assert samples == sorted(set(samples))


def test_a_pickle_for_a_checkpoint_is_refused(lab: Lab, run: Path) -> None:
    torch.save({"experiment": {}, "anything": Path("x")}, run / "checkpoints" / "best.ckpt")
    assert_one_sentence(lab("evaluate", run), 2, "more than tensors and plain values")


def test_a_loss_that_is_not_finite_is_a_failure_that_says_what_to_try(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = lab("train", RECIPE, *QUICK, "module.optimizer.lr=1e30", "trainer.log_period=1", "--quiet", "--out", out)
    assert_one_sentence(done, 1, "losses/cross_entropy became", "module.optimizer.lr")
    assert Run.open(out).result()["status"] == "failed"
    assert "Traceback" in (out / "log.txt").read_text()


def test_a_full_disk_fails_and_leaves_the_run_resumable(lab: Lab, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", full)
        done = lab("resume", run, "trainer.budget=4000", "--quiet")
    assert_one_sentence(done, 1, "No space left on device", "what was saved before is intact")
    assert lab("resume", run, "trainer.budget=4000", "--quiet").code == 0
    assert Run.open(run).result()["status"] == "completed"


def test_a_disk_that_fills_while_rows_are_written(lab: Lab, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lab.runs.metrics_file.MetricsFile.append", full)
        done = lab("resume", run, "trainer.budget=4000", "--quiet")
    assert_one_sentence(done, 1, "No space left on device")
    assert lab("resume", run, "trainer.budget=4000", "--quiet").code == 0


def test_debug_shows_the_traceback(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise Failure("it broke")

    monkeypatch.setattr("lab.config.overrides.resolve", fail)
    assert_one_sentence(lab("show", RECIPE), 1, "it broke")
    with pytest.raises(Failure, match="it broke"):
        lab("show", RECIPE, "--debug")


def test_a_path_that_no_file_can_have_is_bad_input(lab: Lab) -> None:
    done = lab("resume", "runs/" + "x" * 5_000)
    assert (done.code, done.err.count("\n"), "(--debug" in done.err) == (2, 1, False)
    assert "cannot be used: File name too long." in done.err


def test_an_unexpected_error_is_one_line_with_a_pointer(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("over\nseveral\nlines")

    monkeypatch.setattr("lab.config.overrides.resolve", fail)
    assert_one_sentence(lab("show", RECIPE), 1, "ZeroDivisionError: over several lines", "--debug")


def test_a_name_with_slashes_and_dots_stays_below_the_runs_folder(lab: Lab, tmp_path: Path) -> None:
    assert lab("train", RECIPE, *QUICK, "name=../../escape", "--quiet").code == 0
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_what_is_printed_to_type_next_works_when_pasted(lab: Lab, tmp_path: Path, monkeypatch: Any) -> None:
    """With the modules that the run needs."""
    (tmp_path / "own_recipes.py").write_text(
        "from lab.supervised.recipes.classifier import digits_cnn\n\n\ndef own():\n    return digits_cnn()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("own_recipes:own", "trainer.budget=640", "tracking.mode=disabled", "--out", tmp_path / "run")
    done = lab("train", *words, "--quiet")
    assert done.code == 0, done.err
    following = done.out.strip().splitlines()[-1]
    assert following == f"next: lab evaluate {tmp_path / 'run'} --import own_recipes"


def test_a_best_checkpoint_that_is_gone_is_told(lab: Lab, run: Path) -> None:
    (run / "checkpoints" / "best.ckpt").unlink()
    done = lab("evaluate", run)
    assert done.code == 2
    assert "the best checkpoint of run" in done.err
    done = lab("evaluate", run, "--checkpoint", "last")
    assert (done.code, "(last checkpoint, " in done.out) == (0, True)


def test_a_checkpoint_of_another_run_is_refused(lab: Lab, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    words = [
        "trainer.budget=256",
        "trainer.film=false",
        "tracking.mode=disabled",
        "data.num_envs=2",
        "data.num_steps=16",
    ]
    assert lab("train", "pg/cartpole", *words, "--out", other, "--quiet").code == 0
    shutil.copy(other / "checkpoints" / "best.ckpt", run / "checkpoints" / "best.ckpt")
    done = lab("evaluate", run)
    assert done.code == 2
    assert "does not fit: it is of pg/cartpole, with module.kind=" in done.err


def test_a_damaged_checkpoint_is_told_once(lab: Lab, run: Path) -> None:
    (run / "checkpoints" / "best.ckpt").write_bytes(b"nothing")
    done = lab("evaluate", run)
    assert (done.code, done.err.count("is damaged")) == (2, 1)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("export", "runs/x", "--out", ""), "argument --out: a path must not be empty"),
        (("train", "dqn/cartpole", "--out="), "argument --out: a path must not be empty"),
        (("compare", "runs", "--html", "a" * 256), "holds a name of more than 255 bytes"),
        (("compare", "runs", "--threshold", "3" + "9" * 400), "is no finite number"),
        (("board", "--threshold", "nan"), "argument --threshold: 'nan' is no finite number"),
        (("submit", "--cpus", "inf", "train", "dqn/cartpole"), "argument --cpus: 'inf' is no finite number"),
        (("play", "runs/x", "--video", "ü" * 128 + ".gif"), "holds a name of more than 255 bytes"),
    ],
)
def test_paths_that_can_be_no_file_are_refused_before_anything_is_done(lab: Any, words: Any, part: str) -> None:
    done = lab(*words)
    assert done.code == 2
    assert part in done.err
    assert done.err.count("\n") == 1


def test_numbers_of_episodes_have_an_end(lab: Lab, trained: Path) -> None:
    for command in ("evaluate", "play"):
        done = lab(command, trained, "--episodes", "9" * 400)
        assert done.code == 2
        assert "is not a number of episodes; give 1 to 1,000,000." in done.err
        assert len(done.err) < 300
