"""Snapshots of one run: where cycles end, the same after a resume, and an ensemble by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lab.config.overrides import resolve
from lab.experiment import Experiment
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.restore import restore
from lab.training.train import resume, train
from tests.lab.ranks.several import stop_after, train_on_ranks

pytestmark = pytest.mark.slow

CYCLES = ("trainer.snapshots=4", "module.optimizer.schedule={name: cyclic, cycles: 4}")


def digits(*overrides: str) -> Experiment:
    """Chunks of 160 samples; cycles of 500 end within them, and within minibatches."""
    quick = ("trainer.num_threads=1", "trainer.device=cpu", "tracking.mode=disabled", "trainer.eval_period=2000")
    own = ("data.batch_size=32", "data.batches_per_step=5", "trainer.budget=2000", "module.backbone.dropout=0")
    return resolve("classifier/digits-cnn", [*quick, *own, *CYCLES, *overrides])


def weights(run: Run, which: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = checkpoint.load(run.checkpoint(which))["state_dict"]
    return state


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(digits(), run_dir=tmp_path_factory.mktemp("run") / "run").run


def test_a_snapshot_is_taken_before_the_first_update_of_the_next_cycle(run: Run, tmp_path: Path) -> None:
    assert run.snapshots() == [f"snapshot-{number}" for number in (1, 2, 3, 4)]
    counts = [checkpoint.load(run.checkpoint(name))["counters"]["samples"] for name in run.snapshots()]
    assert counts == [512, 992, 1504, 1984]  # the middle of the next minibatch is 528, 1008, 1520, 2000
    for name, value in weights(run, "last").items():
        assert torch.equal(value, weights(run, "snapshot-4")[name])
    # by hand: a run with the same schedule whose chunks are single minibatches, looked at after each
    seen: dict[int, Tensor] = {}

    def look(loop: Any) -> None:
        inner = loop.on_train_batch_end

        def kept(trainer: Any, module: Any, *rest: Any) -> None:
            seen[module.counters["samples"]] = module.net.task.head.weight.detach().clone()
            inner(trainer, module, *rest)

        loop.on_train_batch_end = kept

    train(digits("data.batches_per_step=1"), run_dir=tmp_path / "single", on_loop=look)
    for number, count in zip((1, 2, 3), counts, strict=False):
        assert torch.equal(seen[count], weights(run, f"snapshot-{number}")["net.task.head.weight"])


def test_a_resumed_run_and_ranks_take_the_same_snapshots(run: Run, tmp_path: Path) -> None:
    again = train(digits(), run_dir=tmp_path / "again", on_loop=stop_after(4)).run
    assert again.snapshots() == ["snapshot-1"]
    assert resume(again).status == "completed"
    (two,) = train_on_ranks(2, [(digits(), tmp_path / "two", 0)])
    assert again.snapshots() == two.snapshots() == run.snapshots()
    for name in run.snapshots():
        counters = [checkpoint.load(each.checkpoint(name))["counters"]["samples"] for each in (run, two)]
        assert counters[0] == counters[1]
        for key, value in weights(run, name).items():
            assert torch.equal(value, weights(again, name)[key])
            torch.testing.assert_close(weights(two, name)[key], value, rtol=1e-2, atol=1e-3)


def test_another_budget_or_number_divides_the_run_anew(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "longer")
    longer = resume(tmp_path / "longer", "trainer.budget=4000").run
    counts = [checkpoint.load(longer.checkpoint(name))["counters"]["samples"] for name in longer.snapshots()]
    assert counts == [512, 992, 3008, 4000]  # the first two stay those of the shorter run
    halves = train(digits(), run_dir=tmp_path / "halves", on_loop=stop_after(4)).run
    resume(halves, "trainer.snapshots=2")
    counts = [checkpoint.load(halves.checkpoint(name))["counters"]["samples"] for name in halves.snapshots()]
    assert counts == [992, 1984]


def test_the_ensemble_of_a_run_is_the_mean_of_its_snapshots(run: Run, lab: Any) -> None:
    told = json.loads(lab("evaluate", run.path, "--ensemble", "--json").out)
    assert list(told["members"]) == run.snapshots()
    probabilities = []
    for name in run.snapshots():
        _, data, module, _ = restore(run, name)
        batch = next(data.batches("test"))
        with torch.no_grad():
            probabilities.append(module.net(batch.x).double().softmax(1))
        alone = json.loads(lab("evaluate", run.path, "--checkpoint", name, "--json").out)
        assert alone["metrics"] == pytest.approx(told["members"][name])
        data.close()
    p = torch.stack(probabilities).mean(0)
    right = p.gather(1, batch.y[:, None])[:, 0]
    assert told["metrics"]["eval/accuracy"] == pytest.approx(float((p.argmax(1) == batch.y).double().mean()))
    assert told["metrics"]["eval/cross_entropy"] == pytest.approx(float(-right.log().mean()), rel=1e-4)
    # 15 bins of confidence: |accuracy - confidence| of each, by its share (Guo et al. 2017)
    confidence, correct = p.max(1).values, (p.argmax(1) == batch.y).double()
    bins = (confidence * 15).ceil().long().clamp(1, 15)
    ece = sum(
        float((bins == b).double().mean()) * abs(float(correct[bins == b].mean() - confidence[bins == b].mean()))
        for b in bins.unique().tolist()
    )
    assert told["metrics"]["eval/calibration_error"] == pytest.approx(ece, rel=1e-3)
    shown = lab("evaluate", run.path, "--ensemble").out
    assert shown.startswith("4 snapshots: ")
    done = lab("evaluate", run.path, "--ensemble", "--checkpoint", "snapshot-2")
    assert (done.code, "the members of one are its snapshots" in done.err) == (2, True)
    assert "calibration_error" in shown


def test_a_run_without_snapshots_is_no_ensemble(tmp_path: Path, lab: Any) -> None:
    plain = train(digits("trainer.snapshots=null", "trainer.budget=160"), run_dir=tmp_path / "run").run
    done = lab("evaluate", plain.path, "--ensemble")
    assert (done.code, "or one run with two snapshots" in done.err) == (2, True)
    done = lab("evaluate", plain.path, "--checkpoint", "snapshot-1")
    assert (done.code, "unknown checkpoint 'snapshot-1'" in done.err) == (2, True)
