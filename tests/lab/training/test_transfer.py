"""A trunk goes from family to family, is frozen or not, and its run may be gone when the new one is resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lab.config.overrides import resolve
from lab.errors import UserError
from lab.experiment import Experiment
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.restore import restore
from lab.training.train import resume, train
from lab.training.transfer import begin_backbones
from tests.lab.ranks.several import stop_after, train_on_ranks

pytestmark = pytest.mark.slow

QUICK = ("trainer.num_threads=1", "trainer.device=cpu", "trainer.film=false", "tracking.mode=disabled")
PERCEPTRON = "module.backbone={name: mlp, hidden: [16, 16], activation: tanh"
DIGITS = ("data.batch_size=32", "data.batches_per_step=5", "trainer.budget=640", "trainer.eval_period=640")
AGENTS = {
    "dqn/cartpole": ("data.learning_starts=64", "module.batch_size=16", "trainer.budget=512"),
    "ppo/cartpole": ("data.num_envs=4", "data.num_steps=32", "data.rounds=1", "trainer.budget=512"),
}


def experiment(recipe: str, *overrides: str) -> Experiment:
    own = AGENTS.get(recipe, DIGITS)
    return resolve(recipe, [*QUICK, *own, *overrides])


def digits(*overrides: str) -> Experiment:
    return experiment("classifier/digits-cnn", *overrides)


def weights(run: Run, which: str = "last") -> dict[str, Tensor]:
    state: dict[str, Tensor] = checkpoint.load(run.checkpoint(which))["state_dict"]
    return state


def trunk(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A table of four numbers and a class, as CartPole shows four numbers."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("table") / "rows.csv"
    x = rng.normal(size=(200, 4))
    lines = [",".join([*(f"{v:.4f}" for v in row), "right" if row[0] > 0 else "left"]) for row in x]
    path.write_text("\n".join(["a,b,c,d,side", *lines]) + "\n")
    return f"data={{kind: table, name: {path}, batch_size: 16, batches_per_step: 2}}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, rows: str) -> dict[str, Run]:
    """A run of each family, by its name."""
    folder = tmp_path_factory.mktemp("sources")
    perceptron = f"{PERCEPTRON}}}"
    experiments = {
        "classifier": digits(rows, perceptron),
        "dqn": experiment("dqn/cartpole", perceptron),
        "ppo": experiment("ppo/cartpole", perceptron),
        "vae": experiment("vae/digits", "module.backbone={name: mlp, hidden: [32]}"),
        "autoencoder": experiment("autoencoder/digits", "module.layers=[32,8]"),
        "lenet": digits(),
        "batch_norm": digits("module.backbone={name: resnet, channels: [4, 8], norm: batch}"),
        "text": experiment(
            "lm/reference-gru",
            *("module.backbone.hidden=16", "module.embedding=8", "data.batch_size=4", "data.window=8"),
            *("data.batches_per_step=2", "data.validation=0.01", "data.test=0.01", "trainer.budget=128"),
        ),
    }
    return {name: train(each, run_dir=folder / name).run for name, each in experiments.items()}


def begun(runs: dict[str, Run], source: str, recipe: str, tmp_path: Path, *overrides: str, backbone: str) -> Run:
    """A run with a frozen trunk of another one: what is frozen in it is what the other run had learned."""
    chosen = f"{backbone}, from_run: {runs[source].path}, frozen: true}}"
    result = train(experiment(recipe, *overrides, chosen), run_dir=tmp_path / "run")
    assert result.status == "completed"
    return result.run


def test_a_classifiers_trunk_in_a_dqn_and_in_its_target(runs: dict[str, Run], tmp_path: Path) -> None:
    run = begun(runs, "classifier", "dqn/cartpole", tmp_path, backbone=PERCEPTRON)
    given, own = trunk(weights(runs["classifier"], "best"), "net.features.backbone."), weights(run)
    for network in ("q_network", "target_network"):
        assert_same(trunk(own, f"{network}.encoder.backbone."), given)
    (source,) = run.result()["begun_with"]
    assert source["path"] == str(runs["classifier"].path)
    assert (source["field"], source["recipe"]) == ("module.backbone.from_run", "classifier/digits-cnn")
    log = (run.path / "log.txt").read_text()
    assert log.count("q_network.encoder.backbone begins with net.features.backbone of") == 1
    assert "2 of 2 layers (100% of the numbers) fit" in log


def test_a_classifiers_trunk_in_actor_and_critic_and_back(runs: dict[str, Run], rows: str, tmp_path: Path) -> None:
    run = begun(runs, "classifier", "ppo/cartpole", tmp_path / "there", backbone=PERCEPTRON)
    given, own = trunk(weights(runs["classifier"], "best"), "net.features.backbone."), weights(run)
    assert_same(trunk(own, "policy.actor.backbone."), given)
    assert_same(trunk(own, "policy.critic.backbone."), given)
    assert "policy.actor.backbone and policy.critic.backbone begin with" in (run.path / "log.txt").read_text()
    back = begun(runs, "ppo", "classifier/digits-cnn", tmp_path / "back", rows, backbone=PERCEPTRON)
    given = trunk(weights(runs["ppo"], "best"), "policy.actor.backbone.")
    assert_same(trunk(weights(back), "net.features.backbone."), given)


def test_a_critic_begins_with_the_critic(runs: dict[str, Run]) -> None:
    first = experiment("ppo/cartpole", f"{PERCEPTRON}, from_run: {runs['ppo'].path}}}")
    data = first.data.build(0)
    module = first.module.build(data.spec)
    (beginning,) = begin_backbones(module)
    given = weights(runs["ppo"], "best")
    for part in ("policy.actor.backbone.", "policy.critic.backbone."):
        assert_same(trunk(module.state_dict(), part), trunk(given, part))
    assert beginning.source["backbones"] == {
        f"policy.{each}.backbone": f"policy.{each}.backbone" for each in ("actor", "critic")
    }
    data.close()


def test_a_q_networks_trunk_in_a_classifier(runs: dict[str, Run], rows: str, tmp_path: Path) -> None:
    run = begun(runs, "dqn", "classifier/digits-cnn", tmp_path, rows, backbone=PERCEPTRON)
    given = trunk(weights(runs["dqn"], "best"), "q_network.encoder.backbone.")
    assert_same(trunk(weights(run), "net.features.backbone."), given)


@pytest.mark.parametrize(
    ("source", "backbone", "prefix"),
    [
        ("vae", "module.backbone={name: mlp, hidden: [32]", "net.features.backbone."),
        ("text", "module.backbone={name: gru, hidden: 16", "net.backbone."),
    ],
)
def test_trunks_of_models_that_see_no_labels(
    runs: dict[str, Run], tmp_path: Path, source: str, backbone: str, prefix: str
) -> None:
    run = begun(runs, source, "classifier/digits-cnn", tmp_path, backbone=backbone)
    assert_same(trunk(weights(run), "net.features.backbone."), trunk(weights(runs[source], "best"), prefix))


def test_an_autoencoders_layers_below_the_code(runs: dict[str, Run], tmp_path: Path) -> None:
    backbone = "module.backbone={name: mlp, hidden: [32], activation: sigmoid"
    run = begun(runs, "autoencoder", "classifier/digits-cnn", tmp_path, backbone=backbone)
    given = weights(runs["autoencoder"], "best")
    assert_same(trunk(weights(run), "net.features.backbone.net.1."), trunk(given, "layers.0.encode.0."))
    _, data, module, _ = restore(runs["autoencoder"])
    _, _, classifier, _ = restore(run)
    x = next(data.batches("test")).x[:5]
    torch.testing.assert_close(classifier.net.features(x), module.encode(x, 1))


def test_dropout_moves_no_layer(runs: dict[str, Run], rows: str) -> None:
    dropped = digits(rows, f"{PERCEPTRON}, dropout: 0.5, from_run: {runs['dqn'].path}}}")
    module = dropped.module.build(dropped.data.build(0).spec)
    (beginning,) = begin_backbones(module)
    assert "2 of 2 layers" in beginning.sentence
    given, own = (trunk(weights(runs["dqn"], "best"), "q_network.encoder.backbone.net."), module.state_dict())
    assert_same(trunk(own, "net.features.backbone.net.0."), trunk(given, "0."))
    assert_same(trunk(own, "net.features.backbone.net.3."), trunk(given, "2."))


def test_what_is_not_frozen_learns_from_there(runs: dict[str, Run], tmp_path: Path) -> None:
    chosen = [f"module.backbone.from_run={runs['lenet'].path}", "module.optimizer.lr=1e-12"]
    run = train(digits(*chosen), run_dir=tmp_path / "run").run
    own, given = (
        trunk(weights(each, which), "net.features.") for each, which in ((run, "last"), (runs["lenet"], "best"))
    )
    for name, value in own.items():
        torch.testing.assert_close(value, given[name], rtol=0, atol=1e-6)
    assert not torch.equal(weights(run)["net.task.head.weight"], weights(runs["lenet"])["net.task.head.weight"])


def test_first_stages_and_patterns_freeze_and_the_rest_learns(runs: dict[str, Run], tmp_path: Path) -> None:
    given = trunk(weights(runs["lenet"], "best"), "net.features.backbone.")
    for number, (frozen, kept) in enumerate(
        {"1": {"net.1"}, "2": {"net.1", "net.4"}, '["*.4.*"]': {"net.4"}, '["*.bias"]': set()}.items()
    ):
        chosen = [f"module.backbone.from_run={runs['lenet'].path}", f"module.backbone.frozen={frozen}"]
        decay = ["module.optimizer.weight_decay=0.1", "module.optimizer.l1=0.01", "module.optimizer.name=adamw"]
        run = train(digits(*chosen, *decay), run_dir=tmp_path / str(number)).run
        own = trunk(weights(run), "net.features.backbone.")
        same = {name for name, value in own.items() if torch.equal(value, given[name])}
        if kept:
            assert same == {name for name in own if name.rpartition(".")[0] in kept}
        else:
            assert same == {name for name in own if name.endswith("bias")}


@pytest.mark.parametrize("engine", ["eager", "traced"])
def test_batch_norms_of_frozen_layers_keep_their_statistics_after_a_resume_without_the_source(
    runs: dict[str, Run], tmp_path: Path, engine: str
) -> None:
    source = shutil.copytree(runs["batch_norm"].path, tmp_path / "source")
    chosen = [
        f"module.backbone={{name: resnet, channels: [4, 8], norm: batch, from_run: {source}, frozen: 1}}",
        f"trainer.engine={engine}",
        "trainer.budget=1280",
    ]
    whole = train(digits(*chosen), run_dir=tmp_path / "whole").run
    run = train(digits(*chosen), run_dir=tmp_path / "run", on_loop=stop_after(2)).run
    assert run.result()["status"] == "interrupted"
    shutil.rmtree(source)
    assert resume(run).status == "completed"
    assert_same(weights(run), weights(whole))
    assert run.result()["begun_with"] == whole.result()["begun_with"] != []
    given, own = (
        trunk(weights(each, which), "net.features.backbone.net.")
        for each, which in ((runs["batch_norm"], "best"), (run, "last"))
    )
    frozen = {name for name in own if name.startswith(("1.", "2."))}
    assert {name for name, value in own.items() if torch.equal(value, given[name])} == frozen
    assert any("running_mean" in name for name in frozen)


def test_thawed_layers_go_on_with_the_optimizers_state_of_the_others(runs: dict[str, Run], tmp_path: Path) -> None:
    chosen = [f"module.backbone.from_run={runs['lenet'].path}", "module.backbone.frozen=true"]
    run = train(digits(*chosen), run_dir=tmp_path / "run").run
    before = checkpoint.load(run.last)["train"]["updaters"]["net"]["optimizer"]["state"]
    assert resume(run, "module.backbone.frozen=false", "trainer.budget=1280").status == "completed"
    after = checkpoint.load(run.last)["train"]["updaters"]["net"]["optimizer"]["state"]
    assert len(before) == 2
    assert before.keys() < after.keys()
    assert {int(after[number]["step"]) - int(before[number]["step"]) for number in before} == {20}
    first = trunk(weights(runs["lenet"], "best"), "net.features.backbone.")
    assert not any(
        torch.equal(value, first[name]) for name, value in trunk(weights(run), "net.features.backbone.").items()
    )


def test_ranks_hold_the_same_frozen_trunk(runs: dict[str, Run], tmp_path: Path) -> None:
    options = f"channels: [4, 8], norm: batch, from_run: {runs['batch_norm'].path}, frozen: true"
    chosen = f"module.backbone={{name: resnet, {options}}}"
    (run,) = train_on_ranks(2, [(digits(chosen), tmp_path / "two", 0)])
    alone = train(digits(chosen), run_dir=tmp_path / "one").run
    given = trunk(weights(runs["batch_norm"], "best"), "net.features.backbone.")
    assert_same(trunk(weights(run), "net.features.backbone."), given)
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(run)[name], value, rtol=1e-3, atol=1e-4)


def test_other_channels_and_sizes_take_what_fits_and_name_the_rest(runs: dict[str, Run], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (40, 12, 12, 3), dtype=np.uint8), np.arange(40) % 10
    np.savez(tmp_path / "colours.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    chosen = [f"data.name={tmp_path / 'colours.npz'}", f"module.backbone.from_run={runs['lenet'].path}"]
    run = train(digits(*chosen, 'module.backbone.frozen=["*.4.*"]'), run_dir=tmp_path / "run").run
    log = (run.path / "log.txt").read_text()
    assert "1 of 3 layers" in log
    assert "these begin anew: net.features.backbone.net.1, net.features.backbone.net.8" in log
    given = trunk(weights(runs["lenet"], "best"), "net.features.backbone.net.4.")
    assert_same(trunk(weights(run), "net.features.backbone.net.4."), given)


def test_what_does_not_fit_is_refused_before_anything_is_written(
    runs: dict[str, Run], rows: str, tmp_path: Path
) -> None:
    lenet, perceptron = runs["lenet"].path, runs["dqn"].path
    old = checkpoint.load(runs["lenet"].checkpoint("best"))
    del old["trunks"]
    checkpoint.save(tmp_path / "old.ckpt", old)
    checkpoint.save(
        tmp_path / "strange.ckpt", {**old, "trunks": [["net", {"name": "lenet"}, {"net.1.weight": "none"}]]}
    )
    whole = checkpoint.load(runs["lenet"].checkpoint("best"))
    lost = {
        name: value * torch.nan if value.is_floating_point() else value for name, value in whole["state_dict"].items()
    }
    checkpoint.save(tmp_path / "nan.ckpt", {**whole, "state_dict": lost})
    cases = {
        f"name: lenet, from_run: {tmp_path / 'none'}": "module.backbone.from_run: there is no run",
        f"name: lenet, from_run: {tmp_path / 'nan.ckpt'}": "weight is not all finite numbers",
        f"name: lenet, from_run: {perceptron}": "that run's backbone is mlp, and this one's lenet",
        f"name: lenet, hidden: 64, from_run: {lenet}": "other options: hidden=128 there, 64 here",
        f"name: mlp, hidden: [16, 16], activation: tanh, from_run: {runs['ppo'].path}": "only 0 of 2 layers",
        f"name: mlp, hidden: [16], from_run: {tmp_path / 'strange.ckpt'}": "is damaged: its list of backbones",
        f"name: lenet, from_run: {tmp_path / 'old.ckpt'}": "did not note its backbones",
        "name: lenet, frozen: 3": "frozen=3 is not valid: the backbone has 2 stages",
        "name: mlp, frozen: 4": "frozen=4 is not valid: the backbone has 2 layers with parameters",
        'name: lenet, frozen: ["*conv*"]': "unknown parameters in module.backbone.frozen '*conv*'",
        "name: lenet, frozen: -1": "frozen=-1 is not valid for backbone 'lenet': write true, a number",
    }
    for options, says in cases.items():
        run = tmp_path / "run"
        with pytest.raises(UserError, match=says.replace("*", r"\*")):
            train(digits(f"module.backbone={{{options}}}"), run_dir=run)
        assert not run.exists(), options


def test_lab_check_and_show_know_them(runs: dict[str, Run], lab: Any) -> None:
    chosen = [f"module.backbone.from_run={runs['lenet'].path}", "module.backbone.frozen=true"]
    done = lab("check", "classifier/digits-cnn", *QUICK, *chosen, "--json")
    checks = {check["name"]: check for check in json.loads(done.out)["checks"]}
    assert done.code == 0, done.out
    assert checks["gradient check"]["verdict"] == "ok"
    shown = lab("show", "backbone", "lenet", "frozen=1", "--json", "--input", "1,8,8")
    told = json.loads(shown.out)
    assert told["parameters"] - told["trainable_parameters"] == 16 * 25 + 16
    refused = lab("show", "backbone", "lenet", f"from_run={runs['lenet'].path}")
    assert (refused.code, "from_run is for lab train" in refused.err) == (2, True)


def test_a_whole_run_begins_with_one_whose_trunk_was_frozen(runs: dict[str, Run], tmp_path: Path) -> None:
    frozen = train(
        digits(f"module.backbone.from_run={runs['lenet'].path}", "module.backbone.frozen=true"),
        run_dir=tmp_path / "first",
    ).run
    again = train(digits(f"trainer.start_from={frozen.path}", "module.backbone.frozen=true"), run_dir=tmp_path / "next")
    assert_same(*(trunk(weights(each), "net.features.") for each in (frozen, again.run)))
    assert "8 of 8 parameter tensors (100% of the numbers) fit" in (again.run.path / "log.txt").read_text()
