"""Every planted fault is named, and clean recipes pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lab.config.overrides import resolve
from lab.data.tables import TableData
from lab.diagnostics.examine import examine
from lab.diagnostics.finding import Finding, conclusion
from lab.diagnostics.supervised import check_softmax, split_sample
from lab.supervised.supervised import Supervised, SupervisedConfig
from lab.supervised.tasks.classification import Classification

CNN = "classifier/digits-cnn"
MLP = "regression/diabetes"


def wrong(recipe: str, *overrides: str) -> dict[str, Finding]:
    """What is wrong with a recipe, by check, or worth a warning; the first is the conclusion's."""
    findings = examine(resolve(recipe, list(overrides)))
    strange = {finding.name: finding for finding in findings if finding.verdict in ("wrong", "warning")}
    if strange:
        assert conclusion(findings).split(":")[0] in strange
    return strange


def with_hook(part: str, function: Callable[[Tensor], Tensor]) -> Any:
    """A `build` whose network applies `function` to the output of one of its parts."""

    def build(config: SupervisedConfig, spec: Any) -> Supervised:
        learner = Supervised(config, spec)
        learner.net.get_submodule(part).register_forward_hook(lambda module, inputs, output: function(output))
        return learner

    return build


def test_the_conclusion_is_the_first_wrong_finding_else_the_first_warning() -> None:
    findings = [Finding("a", "ok", "fine"), Finding("b", "warning", "hm"), Finding("c", "wrong", "no")]
    assert conclusion(findings) == "c: no"
    assert conclusion(findings[:2]) == "b: hm"
    assert conclusion(findings[:1]) == "nothing was found that is wrong"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        (CNN, []),
        (MLP, []),
        (MLP, ["module.optimizer.name=lbfgs", "module.optimizer.weight_decay=0"]),
        ("multi-label/digits", ["module.backbone.channels=[16,32]"]),
        ("vae/digits", []),
        ("vq-vae/digits", []),
        ("gan/digits", []),
        ("gan/digits", ["module.loss=wasserstein", "module.gradient_penalty=10", "module.discriminator_steps=3"]),
        ("dqn/cartpole", ["data.learning_starts=100"]),
        ("ppo/cartpole", []),
        ("pg/cartpole", ["data.num_envs=4", "data.num_steps=32"]),
        ("impala/cartpole", ["data.num_envs=4", "data.num_steps=32"]),
        ("lm/reference-gru", ["module.backbone.hidden=32"]),
        ("classifier/digits-cnn", ["module.backbone.name=resnet", "module.backbone.channels=[8,16]"]),
        ("dqn/cartpole-rainbow", ["data.learning_starts=100", "module.batch_size=16"]),
        ("recurrent-q/cartpole-positions", ["data.num_envs=2", "data.learning_starts=128", "module.batch_size=4"]),
        ("ppo/pendulum", []),
        ("q-learning/taxi", ["data.num_steps=100"]),
    ],
)
def test_clean_recipes_pass(recipe: str, overrides: list[str]) -> None:
    assert wrong(recipe, *overrides) == {}


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "word"), [(0.2, "too high"), (2e-7, "too low")])
def test_a_rate_that_is_far_off_is_named(rate: float, word: str) -> None:
    strange = wrong(CNN, f"module.optimizer.lr={rate}")
    assert next(iter(strange)) == "update to weight"
    assert word in strange["update to weight"].sentence
    assert "twenty samples by heart" in strange


@pytest.mark.slow
def test_dead_units_are_named() -> None:
    strange = wrong(CNN, "module.backbone.bias=-100")
    assert next(iter(strange)) == "activations"
    assert "16 of the 16 units" in strange["activations"].sentence
    assert strange["gradients"].numbers["zero"] > 0


@pytest.mark.slow
def test_saturated_units_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    build = with_hook("features", torch.clone)

    def saturated(config: SupervisedConfig, spec: Any) -> Supervised:
        learner = build(config, spec)
        with torch.no_grad():
            next(learner.net.features.parameters()).mul_(1e4)
        return learner

    monkeypatch.setattr(SupervisedConfig, "build", saturated)
    strange = wrong(MLP, "module.backbone.activation=tanh")
    assert "saturated" in strange["activations"].sentence


@pytest.mark.slow
def test_a_second_softmax_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SupervisedConfig, "build", with_hook("task", lambda scores: scores.softmax(1)))
    assert next(iter(wrong(CNN))) == "one softmax"


@pytest.mark.slow
def test_a_second_sigmoid_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = resolve("multi-label/digits", ["module.backbone.channels=[4]"])
    data = experiment.data.build(0)
    batch = split_sample(data, 100)
    assert check_softmax(experiment.module.build(data.spec), batch).verdict == "ok"
    monkeypatch.setattr(SupervisedConfig, "build", with_hook("task", torch.sigmoid))
    finding = check_softmax(experiment.module.build(data.spec), batch)
    assert finding.verdict == "wrong"
    assert "leave its sigmoid out" in finding.sentence


@pytest.mark.slow
def test_a_task_without_an_accuracy_has_nothing_to_learn_by_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Classification.loss
    monkeypatch.setattr(Classification, "loss", lambda task, *given: inner(task, *given)._replace(metrics={}))
    findings = {finding.name: finding for finding in examine(resolve(CNN, []))}
    assert findings["twenty samples by heart"].verdict == "not applicable"
    assert findings["gradient check"].verdict == "ok"


@pytest.mark.slow
def test_dropout_in_evaluation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SupervisedConfig, "build", with_hook("features", lambda x: F.dropout(x, 0.5, training=True)))
    assert next(iter(wrong(CNN))) == "evaluation mode"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "name"), [(lambda x: 1000 * x + 5000, "inputs"), (lambda x: 0 * x, "twenty samples by heart")]
)
def test_inputs_that_are_huge_or_say_nothing_are_named(
    change: Callable[[Tensor], Tensor], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = TableData.build

    def build(config: TableData, seed: int) -> Any:
        data = inner(config, seed)
        data._splits = {split: (change(x), y) for split, (x, y) in data._splits.items()}
        return data

    monkeypatch.setattr(TableData, "build", build)
    assert name in wrong(MLP)
