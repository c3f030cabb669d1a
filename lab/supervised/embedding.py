"""Words as vectors that are learned, by their numbers and, if wanted, by their letters.

B batch, T words of a sequence, C characters of a word, D numbers that stand for a word.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from lab.backbones.layers import Share
from lab.data.language.vocabulary import PAD, SPECIAL, UNKNOWN, Vocabulary
from lab.data.spec import TensorSpec
from lab.errors import UserError
from lab.experiment import Config

_LETTERS = 592
"""code points that are told apart, those of Latin scripts; all others are alike"""
_SMALL = 0.1
"""standard deviation of the numbers of a word before it learns"""
_LETTER = 32
"""numbers that stand for one character"""
_WIDTH = 3
"""characters that a convolution sees at once"""


class EmbeddingConfig(Config):
    """Vectors of words."""

    size: PositiveInt = 64
    """numbers that stand for a word"""
    character_size: PositiveInt = 64
    """where data.characters are read: numbers that stand for how a word is spelled"""
    dropout: Share = 0.0
    """share of a word's numbers that are dropped while it learns"""
    unknown: Share = 0.0
    """share of words that are made unknown ones while it learns"""


class Embedding(nn.Module):
    """Tokens (B, T), or (B, T, 1 + C) with the characters of each word, to vectors (B, T, D).

    The vocabulary is saved with the weights; loading those of another one raises UserError.
    """

    vocabulary: Tensor  # the words in UTF-8, a line each

    def __init__(self, config: EmbeddingConfig, inputs: TensorSpec, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config, self.reads_characters = config, len(inputs.shape) == 2
        self.words = word_vectors(len(vocabulary), config.size)
        size = config.size
        if self.reads_characters:
            self.letters = nn.Embedding(_LETTERS, _LETTER, padding_idx=0)
            self.spelling = nn.Conv1d(_LETTER, config.character_size, _WIDTH, padding=_WIDTH // 2)
            size += config.character_size
        self.dropout = nn.Dropout(config.dropout)
        self.output_shape = (inputs.shape[0], size)
        written = "\n".join(vocabulary.symbols).encode(errors="surrogatepass")
        self.register_buffer("vocabulary", torch.frombuffer(bytearray(written), dtype=torch.uint8).clone())

    def forward(self, x: Tensor) -> Tensor:
        tokens = x[..., 0] if self.reads_characters else x
        if self.training and self.config.unknown:
            forgotten = torch.rand(tokens.shape, device=x.device) < self.config.unknown
            tokens = torch.where(forgotten & (tokens >= len(SPECIAL)), UNKNOWN, tokens)
        vectors = self.words(tokens)
        if self.reads_characters:
            letters = self.letters(x[..., 1:].flatten(0, 1).clamp(max=_LETTERS - 1)).transpose(1, 2)  # (B T, 32, C)
            spelled = self.spelling(letters).amax(2).unflatten(0, x.shape[:2])
            vectors = torch.cat([vectors, spelled], -1)
        dropped: Tensor = self.dropout(vectors)
        return dropped

    def structure(self, x: Tensor) -> tuple[Tensor, ...]:
        """What a backbone must know of inputs beside their vectors: lengths (B,)."""
        return (lengths_of(x),)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        saved = state_dict.get(f"{prefix}vocabulary")
        if saved is not None and not torch.equal(saved.cpu(), self.vocabulary.cpu()):
            raise UserError(
                f"these data have another vocabulary than the run: {len(_lines(self.vocabulary)):,} words, where it "
                f"knows {len(_lines(saved)):,}; predictions need the text that it learned from."
            )
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def word_vectors(num_words: int, size: int) -> nn.Embedding:
    """Vectors that begin small, so that those of words seen once or twice are no large noise; PAD is zero."""
    vectors = nn.Embedding(num_words, size, padding_idx=PAD)
    nn.init.normal_(vectors.weight, std=_SMALL)
    with torch.no_grad():
        vectors.weight[PAD] = 0
    return vectors


def lengths_of(tokens: Tensor) -> Tensor:
    """How many of tokens (B, T) or (B, T, 1 + C) stand before the filling, at least 1: (B,)."""
    words = tokens if tokens.dim() == 2 else tokens[..., 0]
    return (words != PAD).sum(1).clamp(min=1)


def _lines(written: Tensor) -> list[bytes]:
    return bytes(written.cpu().tolist()).split(b"\n")
