"""Decoders: attention by hand, greedy and beam search against all sequences that there are."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from lab.backbones import BackboneConfig
from lab.backbones.features import Places
from lab.data.language.vocabulary import END, PAD, START, UNKNOWN
from lab.supervised.attention import ATTENTIONS
from lab.supervised.decoder import Decoder

NUM_WORDS, LONGEST = 7, 4


def decoder(backbone: str = "gru", attention: Any = "multiplicative", feeds_context: bool = False) -> Decoder:
    torch.manual_seed(1)
    made = Decoder(
        5,
        NUM_WORDS,
        backbone=BackboneConfig(backbone, hidden=8),
        embedding=3,
        attention=attention,
        feeds_context=feeds_context,
        dropout=0.0,
    ).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return made


def places(num: int = 3) -> Places:
    torch.manual_seed(2)
    return Places(torch.randn(num, 4, 5), torch.tensor([4, 1, 2])[:num])


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_is_a_mean_of_the_places_that_are_there(kind: Any) -> None:
    torch.manual_seed(0)
    attention, given = ATTENTIONS[kind](8, 5), places()
    states = torch.randn(3, 6, 8)
    context, weights = attention(states, given)
    torch.testing.assert_close(weights.sum(2), torch.ones(3, 6))
    assert not weights[1, :, 1:].any()
    torch.testing.assert_close(context[1, 0], given.values[1, 0])
    if kind == "none":
        torch.testing.assert_close(context[2, 3], given.values[2, :2].mean(0))
    if kind == "additive":
        scores = [
            float(attention.score(torch.tanh(attention.query(states[2, 3]) + attention.key(given.values[2, m]))))
            for m in range(2)
        ]
        torch.testing.assert_close(weights[2, 3, :2], torch.tensor(scores).softmax(0))
    if kind == "multiplicative":
        scores = [float(attention.query(states[2, 3]) @ given.values[2, m]) for m in range(2)]
        torch.testing.assert_close(weights[2, 3, :2], torch.tensor(scores).softmax(0))


@pytest.mark.parametrize("feeds_context", [False, True])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("backbone", ["rnn", "lstm", "gru"])
def test_all_steps_at_once_are_one_after_the_other(backbone: str, attention: Any, feeds_context: bool) -> None:
    made, given = decoder(backbone, attention, feeds_context), places()
    tokens = torch.tensor([[4, 5, END, PAD], [END, PAD, PAD, PAD], [6, 6, 5, END]])
    logits = made(given, tokens)
    state, before, rows = made.initial_state(given), torch.full((3, 1), START), []
    for step in range(4):
        one, state, _ = made.step(given, before, state)
        rows.append(one)
        before = tokens[:, step : step + 1]
    torch.testing.assert_close(logits, torch.cat(rows, 1)[tokens != PAD])
    torch.testing.assert_close(made.own_words(given, tokens, 1.0), logits)


def test_a_decoder_may_read_what_it_saw() -> None:
    made, given = decoder(feeds_context=True), places()
    tokens = torch.tensor([[4, 5, END]] * 3)
    state, no_reset = made.initial_state(given), torch.zeros(1, 3, dtype=torch.bool)
    mask = given.mask[..., None]
    torch.testing.assert_close(state.context, (given.values * mask).sum(1) / given.lengths[:, None])
    core, context = state
    for token in tokens.T:
        x = torch.cat([made.words(token), context], 1)[None]
        features, core = made.core(x, core, no_reset)
        context = made.attention(features.transpose(0, 1), given)[0][:, 0]
    torch.testing.assert_close(made.step(given, tokens, state)[1], (core, context))


def test_places_behind_the_end_change_nothing() -> None:
    made, given = decoder(), places()
    other = Places(given.values.clone(), given.lengths)
    other.values[1, 1:] += 5
    tokens = torch.tensor([[4, END], [5, END], [6, END]])
    torch.testing.assert_close(made(given, tokens), made(other, tokens))


def log_probability(made: Decoder, given: Places, row: int, tokens: tuple[int, ...]) -> float:
    """Of a whole sequence among those without PAD, UNKNOWN and START; the last of LONGEST tokens is END in any case."""
    one = Places(given.values[row : row + 1], given.lengths[row : row + 1])
    logits = made(one, torch.tensor([tokens]))
    logits[:, [PAD, UNKNOWN, START]] = -torch.inf
    return float(logits.log_softmax(1)[range(len(tokens)), tokens].sum())


@pytest.mark.parametrize("feeds_context", [False, True])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_is_the_best_of_all_sequences(penalty: float, feeds_context: bool) -> None:
    made, given = decoder(feeds_context=feeds_context), places()
    words = [number for number in range(NUM_WORDS) if number > END]
    every = [(*prefix, END) for length in range(LONGEST) for prefix in itertools.product(words, repeat=length)]
    told = made.beam(given, LONGEST, num_beams=30, length_penalty=penalty).tolist()
    for row in range(3):
        best = max(every, key=lambda tokens: log_probability(made, given, row, tokens) / len(tokens) ** penalty)
        assert told[row] == [*best, *(PAD,) * (LONGEST - len(best))]


def test_one_beam_is_greedy_where_that_ends() -> None:
    made, given = decoder(), places()
    told, weights = made.greedy(given, 12)
    assert weights.shape == (3, 12, 4)
    for row, tokens in enumerate(told.tolist()):
        if END not in tokens:
            continue
        length = tokens.index(END) + 1
        assert set(tokens[length:]) <= {PAD}
        state, before = made.initial_state(given), torch.full((3, 1), START)
        for token in tokens[:length]:
            logits, state, _ = made.step(given, before, state)
            logits[..., [PAD, UNKNOWN, START]] = -torch.inf
            assert int(logits[row, 0].argmax()) == token
            before = torch.full((3, 1), token)
    assert not set(told.flatten().tolist()) & {UNKNOWN, START}


def test_a_decoder_that_reads_its_own_words_learns_from_them() -> None:
    """Without teacher forcing, the logits are those after the likeliest words."""
    made, given = decoder(), places()
    tokens = torch.full((3, 4), 4)
    logits = made.own_words(given, tokens, 0.0).unflatten(0, (3, 4))
    state, before = made.initial_state(given), torch.full((3, 1), START)
    for step in range(4):
        one, state, _ = made.step(given, before, state)
        torch.testing.assert_close(logits[:, step], one[:, 0])
        before = one.argmax(2)
