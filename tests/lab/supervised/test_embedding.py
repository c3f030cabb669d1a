"""Words as vectors, and the vocabulary that is saved with them."""

from __future__ import annotations

import pytest
import torch

from lab.data.language.vocabulary import UNKNOWN, Vocabulary
from lab.data.spec import TensorSpec
from lab.errors import UserError
from lab.supervised.embedding import Embedding, EmbeddingConfig, lengths_of


def embedding(words: str = "a b c", shape: tuple[int, ...] = (6,), **options: float) -> Embedding:
    torch.manual_seed(0)
    config = EmbeddingConfig(size=5, character_size=3, **options)
    return Embedding(config, TensorSpec(shape, torch.int64), Vocabulary(words.split()))


def test_letters_tell_unknown_words_apart() -> None:
    net = embedding(shape=(6, 5))
    tokens = torch.tensor([[[UNKNOWN, *map(ord, word)] for word in ("bark", "dogs", "日本語x")]])
    vectors = net(tokens)
    assert net.output_shape == (6, 8)
    assert torch.equal(vectors[0, 0, :5], vectors[0, 1, :5])
    assert not torch.equal(vectors[0, 0, 5:], vectors[0, 1, 5:])
    assert vectors.isfinite().all()


def test_words_are_forgotten_while_it_learns_and_filling_never() -> None:
    net = embedding(unknown=0.5)
    tokens = torch.tensor([[4, 5, 6] * 300 + [0] * 100])
    unknown = net.words.weight[UNKNOWN]
    forgotten = (net(tokens) == unknown).all(2)
    assert 0.4 < float(forgotten[0, :900].float().mean()) < 0.6
    assert not forgotten[0, 900:].any()
    assert not net(tokens)[0, 900:].any()
    net.eval()
    assert torch.equal(net(tokens), net.words(tokens))


def test_weights_of_another_vocabulary_are_refused() -> None:
    saved = embedding().state_dict()
    embedding().load_state_dict(saved)
    with pytest.raises(UserError, match="another vocabulary than the run: 7 words, where it knows 7; predictions need"):
        embedding("a b d").load_state_dict(saved)
    with pytest.raises(UserError, match="8 words, where it knows 7"):
        embedding("a b c d").load_state_dict(saved)


def test_lengths_are_those_before_the_filling() -> None:
    tokens = torch.tensor([[4, 1, 0], [5, 5, 5], [0, 0, 0]])
    assert lengths_of(tokens).tolist() == [2, 3, 1]
    assert lengths_of(torch.stack([tokens, tokens + 7], 2)).tolist() == [2, 3, 1]
