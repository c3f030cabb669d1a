"""Tagging of trees. B trees, N nodes, K classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lab.backbones.features import FeatureSpec, Places
from lab.data.targets import NO_TAG, Classes, TreeClasses
from lab.supervised.tasks import TreeTaggingConfig
from lab.supervised.tasks.tree_tagging import TreeTagging

B, N, K = 6, 7, 3
LENGTHS = torch.tensor([1, 3, 7, 5, 3, 7])
MEAN = 2.5


def parts(**options: Any) -> tuple[TreeTagging, Places, Tensor]:
    """The task, its outputs, and labels, of which some inner nodes have none."""
    torch.manual_seed(0)
    target = TreeClasses(Classes(K, ("a", "b", "c"), (10, 20, 30)), MEAN)
    task = TreeTaggingConfig(**options).build(target, FeatureSpec("places", ((N, 4),)))
    inside = torch.arange(N) < LENGTHS[:, None]
    y = torch.where(inside & (torch.rand(B, N) < 0.6), torch.randint(K, (B, N)), NO_TAG)
    y[torch.arange(B), LENGTHS - 1] = torch.tensor([0, 1, 2, 2, 1, 0])
    return task, task(Places(torch.randn(B, N, 4), LENGTHS)), y


@pytest.mark.parametrize("options", [{}, {"class_weights": (1, 2, 3)}])
def test_the_loss_is_that_of_all_labelled_nodes(options: Any) -> None:
    task, outputs, y = parts(**options)
    total = 0.0
    for tree in range(B):
        for node in range(N):
            if y[tree, node] != NO_TAG:
                label = int(y[tree, node])
                weight = options.get("class_weights", (1, 1, 1))[label]
                total -= weight * float(outputs.values[tree, node].log_softmax(0)[label])
    loss = task.loss(outputs, y)
    assert float(loss.value) == pytest.approx(total / (B * MEAN), rel=1e-5)
    assert float(loss.metrics["cross_entropy"]) == float(loss.value)
    right = [int(outputs.values[i, n - 1].argmax()) == int(y[i, n - 1]) for i, n in enumerate(LENGTHS.tolist())]
    assert float(loss.metrics["accuracy"]) == pytest.approx(sum(right) / B)


def test_the_loss_may_be_that_of_roots_alone() -> None:
    task, outputs, y = parts(learns="roots")
    rows = torch.stack([outputs.values[i, n - 1] for i, n in enumerate(LENGTHS.tolist())])
    torch.testing.assert_close(task.loss(outputs, y).value, F.cross_entropy(rows, torch.tensor([0, 1, 2, 2, 1, 0])))


@pytest.mark.parametrize("learns", ["nodes", "roots"])
def test_two_workers_learn_what_one_does(learns: str) -> None:
    task, outputs, y = parts(learns=learns)
    halves = [slice(3), slice(3, 6)]
    losses = [task.loss(Places(outputs.values[half], LENGTHS[half]), y[half]).value for half in halves]
    torch.testing.assert_close(torch.stack(losses).mean(), task.loss(outputs, y).value)


def test_scores_are_of_roots_and_of_all_nodes_in_pieces_too() -> None:
    task, outputs, y = parts()
    predictions = task.predictions(outputs)
    scores = task.scores()
    for piece in torch.arange(B).split(4):
        longest = int(LENGTHS[piece].max())
        scores.update(predictions[piece][:, :longest], y[piece][:, :longest])
    values = scores.compute()
    labelled = [(i, n) for i in range(B) for n in range(N) if y[i, n] != NO_TAG]
    right = sum(int(outputs.values[i, n].argmax()) == int(y[i, n]) for i, n in labelled)
    assert float(values["node_accuracy"]) == pytest.approx(right / len(labelled))
    per_sample = task.per_sample(outputs, y)
    right_roots = [int(outputs.values[i, n - 1].argmax()) == int(y[i, n - 1]) for i, n in enumerate(LENGTHS.tolist())]
    assert per_sample["accuracy"].tolist() == right_roots
    assert {"f1", "calibration_error"} < values.keys()
    assert task.monitor.metric == "eval/accuracy"
    table = task.table(predictions, y)
    assert {name: row["samples"] for name, row in table.items()} == {"a": 2, "b": 2, "c": 2}
    assert sum(row["recall"] * 2 for row in table.values()) == pytest.approx(sum(right_roots))


def test_answers_are_of_roots_with_the_classes_of_nodes() -> None:
    task, outputs, y = parts()
    predictions = task.predictions(outputs)
    answers = task.answers(predictions)
    for i, (answer, length) in enumerate(zip(answers, LENGTHS.tolist(), strict=True)):
        p = outputs.values[i].softmax(1)
        assert answer.label == "abc"[int(p[length - 1].argmax())]
        assert answer.details["probability"] == pytest.approx(float(p[length - 1].max()))
        assert answer.details["classes"] == {f"node {n + 1}": int(p[n].argmax()) for n in range(length)}
    assert task.truths(y) == ["a", "b", "c", "c", "b", "a"]
    image = task.draw(predictions, y)["confusion"]
    assert image.dtype == np.uint8


def test_outputs_follow_from_predictions() -> None:
    task, outputs, y = parts()
    predictions = task.predictions(outputs)
    again = task.outputs_of(predictions)
    assert torch.equal(again.lengths, LENGTHS)
    torch.testing.assert_close(task.predictions(again), predictions)
    one, other = task.per_sample(outputs, y), task.per_sample(again, y)
    torch.testing.assert_close(one["cross_entropy"], other["cross_entropy"])
    assert task.meaning == ("probability at each node", "a", "b", "c")
