"""Tagging: scores of words and of spans, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lab.backbones.features import FeatureSpec, Places
from lab.data.targets import NO_TAG, Tags
from lab.errors import UserError
from lab.supervised.tasks import TaggingConfig
from lab.supervised.tasks.tagging import TagScores, spans

BIO = Tags(("B-LOC", "B-PER", "I-PER", "O"), 3.0)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("B-PER B-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("I-PER I-PER O", [("PER", 0, 1)]),
        ("B-PER I-LOC", [("PER", 0, 0), ("LOC", 1, 1)]),
        ("S-PER B-LOC I-LOC E-LOC", [("PER", 0, 0), ("LOC", 1, 3)]),
        ("O O", []),
    ],
)
def test_spans_are_those_of_conlleval(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert list(spans(tags.split())) == expected


def test_words_and_spans_are_counted_over_all_minibatches() -> None:
    scores = TagScores(BIO)
    y = torch.tensor([[1, 2, 3, 0], [0, 3, NO_TAG, NO_TAG]])
    predictions = torch.tensor([[1, 2, 3, 3], [0, 1, NO_TAG, NO_TAG]])
    scores.update(predictions[:1], y[:1])
    scores.update(predictions[1:], y[1:])
    values = {name: float(value) for name, value in scores.compute().items()}
    assert values == pytest.approx({"accuracy": 4 / 6, "span_precision": 2 / 3, "span_recall": 2 / 3, "span_f1": 2 / 3})
    assert set(TagScores(Tags(("NOUN", "VERB"), 1.0)).compute()) == {"accuracy"}


def test_what_is_behind_the_end_counts_nowhere() -> None:
    torch.manual_seed(0)
    task = TaggingConfig().build(BIO, FeatureSpec("places", ((5, 6),)))
    values, lengths = torch.randn(2, 5, 6), torch.tensor([5, 2])
    y = torch.tensor([[0, 1, 2, 3, 3], [2, 1, NO_TAG, NO_TAG, NO_TAG]])
    outputs = task(Places(values, lengths))
    logits = outputs.values.log_softmax(2)
    nats = [-sum(float(logits[row, t, y[row, t]]) for t in range(n)) for row, n in enumerate((5, 2))]
    loss = task.loss(outputs, y)
    assert float(loss.value) == pytest.approx(sum(nats) / (2 * 3.0), rel=1e-5)
    per_sample = task.per_sample(outputs, y)["cross_entropy"]
    assert per_sample.tolist() == pytest.approx([nats[0] / 5, nats[1] / 2], rel=1e-5)
    predictions = task.predictions(outputs)
    assert predictions[1, 2:].tolist() == [NO_TAG] * 3
    assert task.truths(y) == ["B-LOC B-PER I-PER O O", "I-PER B-PER"]
    assert sum(row["samples"] for row in task.table(predictions, y).values()) == 7
    assert task.draw(predictions, y)["confusion"].ndim == 3
    assert math.isfinite(float(loss.metrics["accuracy"]))


def test_one_tag_is_refused() -> None:
    with pytest.raises(UserError, match="needs data of at least two tags"):
        TaggingConfig().build(Tags(("X",), 1.0), FeatureSpec("places", ((5, 6),)))
