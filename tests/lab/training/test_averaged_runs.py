"""Runs that average their weights: the average is evaluated, kept and restored, and training goes on as ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from lab.config.overrides import resolve
from lab.errors import UserError
from lab.experiment import Experiment
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.restore import evaluate, restore
from lab.training.train import resume, train
from tests.lab.ranks.several import stop_after, train_on_ranks

pytestmark = pytest.mark.slow

QUICK = ("trainer.num_threads=1", "trainer.device=cpu", "trainer.film=false", "tracking.mode=disabled")
BATCH_NORM = "module.backbone={name: resnet, channels: [4, 8], norm: batch}"
EMA = "trainer.average={name: ema, decay: 0.9}"
SWA = "trainer.average={name: swa, start: 0.5}"


def digits(*overrides: str) -> Experiment:
    own = ("data.batch_size=32", "data.batches_per_step=5", "trainer.budget=1280", "trainer.eval_period=640")
    return resolve("classifier/digits-cnn", [*QUICK, *own, BATCH_NORM, *overrides])


def content(run: Run, which: str = "last") -> dict[str, Any]:
    return checkpoint.load(run.checkpoint(which))


def weights(run: Run, which: str = "last") -> dict[str, Tensor]:
    state: dict[str, Tensor] = content(run, which)["state_dict"]
    return state


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    words = {"none": [], "ema": [EMA], "swa": [SWA]}
    return {name: train(digits(*each), run_dir=folder / name).run for name, each in words.items()}


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_training_goes_on_with_its_own_weights(runs: dict[str, Run], name: str) -> None:
    assert_same(weights(runs[name]), weights(runs["none"]))
    losses = [
        [row["losses/cross_entropy"] for row in runs[each].metrics() if "losses/cross_entropy" in row]
        for each in (name, "none")
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_the_average_is_evaluated_and_what_is_restored(runs: dict[str, Run], name: str) -> None:
    run = runs[name]
    _, data, module, _ = restore(run, "last")
    raw, average = weights(run), content(run)["train"]["updaters"]["net"]["average"]
    parameters = dict(module.named_parameters())
    for (key, value), mean in zip(parameters.items(), average["values"], strict=False):
        assert torch.equal(value, mean)
        assert not torch.equal(value, raw[key])
    assert average["num_averaged"] == {"ema": 40, "swa": 20}[name]
    told = run.metrics()[-1]
    assert evaluate(run, checkpoint="last", split="val")["eval/cross_entropy"] == pytest.approx(
        told["eval/cross_entropy"], rel=1e-5
    )
    plain = evaluate(run, checkpoint="last", split="val", overrides=["trainer.average=null"])
    assert plain["eval/cross_entropy"] != pytest.approx(told["eval/cross_entropy"], rel=1e-3)
    best = run.result()["best"]
    assert evaluate(run, split="val")["eval/accuracy"] == pytest.approx(best["value"])
    data.close()


def test_after_swa_batch_norms_have_the_statistics_of_the_averaged_weights(runs: dict[str, Run]) -> None:
    _, data, module, _ = restore(runs["swa"], "last")
    own = {name: value.clone() for name, value in module.named_buffers() if "running" in name}
    assert own
    update_bn([batch.x for batch in data.batches("train")], module.net)
    for name, value in own.items():
        torch.testing.assert_close(module.get_buffer(name), value, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(value, weights(runs["swa"])[name], rtol=1e-3)
    best = weights(runs["swa"], "best")
    if content(runs["swa"], "best")["counters"]["samples"] == 1280:
        for name, value in own.items():
            torch.testing.assert_close(best[name], value, rtol=1e-4, atol=1e-5)
    data.close()


@pytest.mark.parametrize(("average", "chunks"), [(EMA, 3), (SWA, 6)])
def test_a_resumed_run_has_the_same_average(runs: dict[str, Run], tmp_path: Path, average: str, chunks: int) -> None:
    run = train(digits(average), run_dir=tmp_path / "run", on_loop=stop_after(chunks)).run
    assert run.result()["status"] == "interrupted"
    assert resume(run).status == "completed"
    whole = runs["ema" if average == EMA else "swa"]
    assert_same(content(run)["train"]["updaters"], content(whole)["train"]["updaters"])
    assert_same(weights(run, "best"), weights(whole, "best"))


def test_ranks_average_alike(tmp_path: Path) -> None:
    experiment = digits(SWA, "module.optimizer.name=sgd", "module.optimizer.lr=0.05")
    alone = train(experiment, run_dir=tmp_path / "one").run
    (run,) = train_on_ranks(2, [(experiment, tmp_path / "two", 0)])
    for name in ("best", "last"):
        for key, value in weights(alone, name).items():
            torch.testing.assert_close(weights(run, name)[key], value, rtol=1e-3, atol=1e-4)
    ours, theirs = (content(each)["train"]["updaters"]["net"]["average"] for each in (run, alone))
    assert ours["num_averaged"] == theirs["num_averaged"]
    for pair in zip(ours["values"], theirs["values"], strict=True):
        torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("dqn/cartpole", ("data.learning_starts=64", "module.batch_size=16", "trainer.budget=512")),
        ("ppo/cartpole", ("data.num_envs=4", "data.num_steps=32", "data.rounds=1", "trainer.budget=512")),
        ("vae/digits", ("data.batch_size=32", "data.batches_per_step=5", "trainer.budget=640")),
        ("gan/digits", ("data.batch_size=32", "data.batches_per_step=5", "trainer.budget=320", "module.ema=0")),
        ("autoencoder/digits-layerwise", ("data.batch_size=32", "data.batches_per_step=5", "trainer.budget=1280")),
    ],
)
def test_families_train_as_before_and_keep_the_average(recipe: str, settings: tuple[str, ...], tmp_path: Path) -> None:
    period = next(word for word in settings if "budget" in word).replace("budget", "eval_period")
    plain, averaged = (
        train(resolve(recipe, [*QUICK, *settings, period, *words]), run_dir=tmp_path / name).run
        for name, words in (("plain", ()), ("averaged", (EMA,)))
    )
    assert_same(weights(averaged), weights(plain))
    _, data, module, _ = restore(averaged, "last")
    best = weights(averaged, "best")
    updated = [key for key, value in best.items() if not torch.equal(value, weights(averaged)[key])]
    assert len(updated) >= 4
    for key, value in module.state_dict().items():
        assert torch.equal(value, best[key]), key
    data.close()


def test_what_has_nothing_to_average_is_refused(tmp_path: Path) -> None:
    cases = {
        ("q-learning/taxi", "trainer.average=ema"): "has no updates whose weights",
        ("gan/digits", "trainer.average=ema"): "both average the generator",
        ("classifier/digits-cnn", "trainer.average=swa trainer.snapshots=2"): "take one of both",
    }
    for (recipe, words), says in cases.items():
        with pytest.raises(UserError, match=says):
            train(resolve(recipe, [*QUICK, *words.split()]), run_dir=tmp_path / "run")
        assert not (tmp_path / "run").exists()
    norm = "module.backbone={name: mlp, hidden: [8], norm: batch}"
    with pytest.raises(UserError, match="statistics of batch norms anew"):
        train(resolve("dqn/cartpole", [*QUICK, norm, "trainer.average=swa"]), run_dir=tmp_path / "run")
