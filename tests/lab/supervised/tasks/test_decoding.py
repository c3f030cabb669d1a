"""Decoding: what is scored of what is told."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from lab.backbones import BackboneConfig
from lab.backbones.features import FeatureSpec, Places
from lab.data.language.vocabulary import END, PAD, UNKNOWN, Vocabulary
from lab.data.targets import Sentence
from lab.supervised.tasks import DecodingConfig
from lab.supervised.tasks.decoding import SentenceScores

SENTENCE = Sentence(Vocabulary(["a", "b", "c", "d", "e"]), mean_length=3.0, longest=6)
A, B, C, D, E = range(4, 9)


def test_bleu_is_that_of_the_paper_by_hand() -> None:
    """Two sentences: 10 words told of 11; n-grams that are right: 9 of 10, 6 of 8, 4 of 6, 2 of 4."""
    told = torch.tensor([[A, B, C, D, E, END, PAD], [A, B, C, D, A, END, PAD]])
    true = torch.tensor([[A, B, C, D, E, A, END], [A, B, C, D, B, END, PAD]])
    scores = SentenceScores(SENTENCE)
    for row in range(2):
        scores.update(told[row : row + 1], true[row : row + 1])
    values = scores.compute()
    precisions = (9 / 10) * (7 / 8) * (5 / 6) * (3 / 4)
    brevity = torch.tensor(1 - 11 / 10).exp()
    assert float(values["bleu"]) == pytest.approx(100 * float(brevity) * precisions**0.25, rel=1e-6)
    assert float(values["exact_match"]) == 0


def test_an_unknown_word_is_never_right() -> None:
    scores = SentenceScores(SENTENCE)
    scores.update(torch.tensor([[A, B, END]]), torch.tensor([[A, B, END]]))
    scores.update(torch.tensor([[A, UNKNOWN, END]]), torch.tensor([[A, UNKNOWN, END]]))
    assert float(scores.compute()["exact_match"]) == 0.5


def test_the_loss_is_that_of_the_words_that_are_there() -> None:
    torch.manual_seed(0)
    task = DecodingConfig(backbone=BackboneConfig("gru", hidden=8), embedding=4).build(
        SENTENCE, FeatureSpec("places", ((4, 5),))
    )
    given = Places(torch.randn(2, 4, 5), torch.tensor([4, 2]))
    y = torch.tensor([[A, B, END, PAD], [C, END, PAD, PAD]])
    loss = float(task.loss(task(given), y).value)
    nats = task.per_sample(given, y)["forced_cross_entropy"]
    assert loss == pytest.approx((3 * float(nats[0]) + 2 * float(nats[1])) / (2 * 3.0), rel=1e-5)
    alone = [task.loss(Places(given.values[i : i + 1], given.lengths[i : i + 1]), y[i : i + 1]).value for i in (0, 1)]
    assert loss == pytest.approx(float(sum(alone)) / 2, rel=1e-5)  # so that two workers learn what one does
    assert task.truths(y) == ["a b", "c"]


def test_teacher_forcing_follows_its_schedule() -> None:
    config = DecodingConfig(backbone=BackboneConfig("gru", hidden=8), teacher_forcing=1.0, last_teacher_forcing=0.5)
    task = config.build(SENTENCE, FeatureSpec("places", ((4, 5),)))
    task.set_progress(0.5)
    assert task.forcing == 0.75
    with pytest.raises(ValidationError, match="a decoder needs a recurrent backbone"):
        DecodingConfig(backbone=BackboneConfig("mlp"))
