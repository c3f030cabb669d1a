"""A baseline as a run: one fit, judged, resumed, answered and exported as every supervised model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lab.config.overrides import resolve
from lab.data.images import register_images
from lab.errors import UserError
from lab.experiment import Experiment
from lab.runs.directory import Run
from lab.supervised.baselines.background import in_background
from lab.supervised.baselines.learner import Baseline
from lab.training.restore import evaluate, restore
from lab.training.train import resume, train

Lab = Callable[..., Any]
QUICK = ("trainer.num_threads=1", "tracking.mode=disabled", "trainer.device=cpu")
SLOW_FIT = """
import sys, time
from lab.supervised.baselines.neighbours import NearestNeighbours
inner = NearestNeighbours.fit
def slow(self, *arguments):
    print("fitting", file=sys.stderr, flush=True)
    time.sleep(60)
    return inner(self, *arguments)
NearestNeighbours.fit = slow
from lab.cli import main
sys.exit(main(sys.argv[1:]))
"""


def experiment(*overrides: str) -> Experiment:
    return resolve("baseline/digits-knn", [*QUICK, "module.model.k=3", *overrides])


def weights(run: Run) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run.checkpoint("last"), weights_only=True)["state_dict"]
    return state


def assert_same(one: Run, other: Run) -> None:
    before, after = weights(one), weights(other)
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.fixture(scope="module")
def knn(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(experiment(), run_dir=tmp_path_factory.mktemp("baseline") / "knn").run


def test_one_fit_is_the_run(knn: Run) -> None:
    result = knn.result()
    assert (result["status"], result["samples"], result["updates"]) == ("completed", 1_297, 1)
    assert result["reason"] == "all that it can learn is learned"
    assert result["best"]["metric"] == "eval/accuracy"
    (row,) = [row for row in knn.metrics() if "eval/accuracy" in row]
    assert {"eval/f1", "eval/calibration_error", "eval/perceptron"} < set(row)
    assert not {key for key in row if "cross_entropy" in key}  # shares of votes may be 0
    assert {path.name for path in knn.media.iterdir()} == {"confusion", "mistakes"}
    assert evaluate(knn)["eval/accuracy"] > 0.97


def test_more_budget_than_samples_is_not_used(knn: Run, tmp_path: Path) -> None:
    done = train(experiment("trainer.budget=1000000"), run_dir=tmp_path / "run")
    result = done.run.result()
    assert (done.status, result["samples"], result["reason"]) == (
        "completed",
        1_297,
        "all that it can learn is learned",
    )
    assert_same(done.run, knn)
    for overrides in (["trainer.budget=2000000"], ["trainer.budget=2000000", "module.model.k=51"]):
        with pytest.raises(UserError, match="is complete: all that it can learn is learned"):
            resume(done.run, *overrides)
    assert resume(done.run).status == "completed"
    assert_same(done.run, knn)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_stopped_in_its_fit_begins_it_again(knn: Run, tmp_path: Path, number: int) -> None:
    words = ["train", "baseline/digits-knn", *QUICK, "module.model.k=3", "--out", str(tmp_path / "run")]
    process = subprocess.Popen([sys.executable, "-c", SLOW_FIT, *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any(line == "fitting\n" for line in process.stderr)
    began = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=40)
    assert time.monotonic() - began < 30
    run = Run.open(tmp_path / "run", without_result=True)
    if number == signal.SIGTERM:
        assert run.result()["status"] == "interrupted"
    assert not run.last.exists()
    assert resume(run).status == "completed"
    assert_same(run, knn)


def test_predictions_of_pictures_have_shares(knn: Run, lab: Lab, tmp_path: Path) -> None:
    _, data, _, _ = restore(knn)
    batch = next(data.batches("test"))
    for i in range(4):
        pixels = (batch.x[i, 0].numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    done = lab("predict", knn.path, tmp_path, "--json")
    assert done.code == 0, done.err
    answers = json.loads(done.out)["answers"] if isinstance(json.loads(done.out), dict) else json.loads(done.out)
    text = json.dumps(answers)
    assert "share" in text
    assert "probability" not in text


@pytest.mark.slow
def test_a_table_of_real_values(tmp_path: Path) -> None:
    done = train(resolve("baseline/diabetes-ridge", list(QUICK)), run_dir=tmp_path / "run")
    _, data, module, _ = restore(done.run)
    from sklearn.linear_model import Ridge

    splits = {split: next(data.batches(split)) for split in ("train", "test")}
    train_x, train_y = (t.double().numpy() for t in splits["train"])
    theirs = Ridge(alpha=module.config.model.l2).fit(train_x, train_y)  # type: ignore[union-attr]
    want = theirs.score(splits["test"].x.double().numpy(), splits["test"].y.numpy())
    assert evaluate(done.run)["eval/r2"] == pytest.approx(want, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["softmax", "least_squares", "nearest_neighbours", "rbf_svm"])
def test_a_class_without_training_samples_is_never_answered(kind: str, tmp_path: Path, own_registries: None) -> None:
    labels = np.arange(120) % 2 * 2  # 0 and 2: there is no 1

    @register_images("two-of-three")
    def two(root: Path) -> Any:
        from lab.data.images import ImageArrays

        images = np.random.default_rng(0).integers(0, 99, (120, 4, 4)).astype(np.uint8)
        images[labels == 2] += 150
        return ImageArrays((images, labels), (images[:30], labels[:30]))

    words = ["data.name=two-of-three", f"module.model.kind={kind}"]
    done = train(resolve("baseline/digits-svm", [*QUICK, *words]), run_dir=tmp_path / "run")
    metrics = evaluate(done.run)
    assert metrics["eval/accuracy"] == 1
    assert all(np.isfinite(value) for value in metrics.values())
    _, data, module, _ = restore(done.run)
    answers = module.answers(next(data.batches("test")).x)
    assert {answer.label for answer in answers} == {"0", "2"}
    if kind == "nearest_neighbours":
        assert {answer.details["shares"]["1"] for answer in answers} == {0.0}


@pytest.mark.slow
def test_pictures_from_disk_are_those_in_memory(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split, num in (("train", 20), ("test", 6)):
        for label in ("dark", "light"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for i in range(num):
                pixels = generator.integers(0, 128, (12, 12, 3)) + (110 if label == "light" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02}.png")
    words = [f"data.name={tmp_path / 'data'}", "module.features.kind=colour_histogram"]
    runs = [
        train(experiment(*words, f"data.stream={stream}", "data.stream_processes=0"), run_dir=tmp_path / stream).run
        for stream in ("true", "false")
    ]
    assert_same(*runs)
    assert evaluate(runs[0])["eval/accuracy"] == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["module.model.k=2000"], "module.model.k=2000 is not valid: the training split has 1297 samples."),
        (["module.features.kind=hog"], "at least one block, 24x24 pixels (cell=8 x block=3); these have 8x8."),
        (["data.transforms.crop=1"], "data.transforms would change nothing"),
        (["module.top_k=[10]"], "top_k=[10] is not valid"),
        (["module.model.kind=svm"], "unknown ModelConfig kind 'svm'"),
        (
            ["data.kind=table", "data.name=diabetes", "module.model.kind=rbf_svm"],
            "these data hold RealValues",
        ),
        (["data.name=scattered-digits"], "predicts Classes or RealValues; these data hold MultiLabel."),
        (["data.kind=table", "data.name=diabetes", "module.features.kind=hog"], "is of pictures; these data hold rows"),
        (["data.kind=table", "data.name=diabetes", "module.top_k=[2]"], "module.top_k is of classes"),
        (["module.features.kind=visual_words", "module.features.patch=9"], "patch=9 is not valid"),
        (["trainer.engine=traced"], "trainer.engine='traced' does not fit"),
        (["data.kind=text", "data.name=python-reference"], "module.kind='baseline' needs images or rows of numbers"),
    ],
)
def test_what_does_not_fit_is_one_sentence(lab: Lab, tmp_path: Path, words: list[str], sentence: str) -> None:
    done = lab("train", "baseline/digits-knn", *QUICK, *words, "--out", tmp_path / "run")
    assert done.code == 2, done.err
    assert sentence in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_several_workers_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lab.ranks.ranks.num_ranks", lambda: 2)
    with pytest.raises(UserError, match=r"no gradients to average: trainer\.num_workers must be 1\."):
        train(experiment(), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_samples_of_one_class_are_refused(lab: Lab, tmp_path: Path) -> None:
    table = tmp_path / "one.csv"
    table.write_text("a,b,kind\n" + "".join(f"{i},{i * i},same\n" for i in range(40)), encoding="utf-8")
    done = lab("train", "baseline/digits-knn", "data.kind=table", f"data.name={table}", *QUICK, "--out", tmp_path / "r")
    assert done.code == 2
    assert "at least two classes" in done.err
    assert done.err.count("\n") == 1


def test_features_that_are_not_finite_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.supervised.baselines.features import Raw

    monkeypatch.setattr(Raw, "forward", lambda self, x: x.flatten(1) / x.flatten(1))
    with pytest.raises(UserError, match="needs finite features; those of training sample 0 are not"):
        train(experiment(), run_dir=tmp_path / "run")


def test_an_error_of_the_background_is_the_callers() -> None:
    def fails() -> None:
        raise ValueError("no")

    assert in_background(lambda: 3, "counting") == 3
    with pytest.raises(ValueError, match="no"):
        in_background(fails, "failing")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["module.model.metric=l1"],
        ["module.features.kind=visual_words", "module.features.words=9", "module.features.patch=4"],
        ["module.features.kind=hog", "module.features.cell=2", "module.model.kind=rbf_svm"],
        ["module.features.kind=colour_histogram", "module.model.kind=softmax", "module.preprocessing.name=pca"],
        ["module.model.kind=linear_svm", "module.preprocessing.name=z_score"],
    ],
)
def test_what_was_fitted_is_exported(words: list[str], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    from lab.export import export

    run = train(resolve("baseline/digits-knn", [*QUICK, *words]), run_dir=tmp_path / "run").run
    _, data, module, _ = restore(run)
    assert isinstance(module, Baseline)
    what = module.exportable(data)
    assert what is not None
    told = export(what, tmp_path / "exported")
    assert max(told["largest_difference"].values()) < 1e-4
