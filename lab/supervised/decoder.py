"""A decoder: tells a sequence token by token, from places that it attends to.

The attention looks from the state after a token has been read (Luong et al. 2015), so that all steps of a sequence that
is known go through each layer at once. With its context fed to the next step, a decoder also knows where it has looked,
and reads step by step.
B batch, T tokens, N tokens of a whole batch, M places, F their features, S state rows, H numbers of a state, V words,
K beams.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones import BackboneConfig, build_backbone
from lab.backbones.features import Places
from lab.data.language.vocabulary import END, PAD, START, UNKNOWN
from lab.supervised.attention import ATTENTIONS, AttentionKind
from lab.supervised.embedding import word_vectors


class Told(NamedTuple):
    """Sequences (B, T) as long as any may be, ended by END and filled with PAD, and the weights (B, T, M) of the places
    at each token."""

    tokens: Tensor
    weights: Tensor


class DecoderState(NamedTuple):
    """The core's state (S, B, H), and the context (B, F) of the token before, where it is read with the next one."""

    core: Tensor
    context: Tensor

    def chosen(self, index: Tensor) -> DecoderState:
        """Those of some sequences (K,)."""
        return DecoderState(self.core[:, index], self.context[index])


class Decoder(nn.Module):
    """Logits of the tokens that follow those before them, from Places with F features."""

    def __init__(
        self,
        num_features: int,
        num_words: int,
        *,
        backbone: BackboneConfig,
        embedding: int,
        attention: AttentionKind,
        feeds_context: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.words = word_vectors(num_words, embedding)
        self.feeds_context = feeds_context
        self.core = build_backbone(backbone, (embedding + num_features if feeds_context else embedding,))
        state = self.core.initial_state(1)  # (S, 1, H)
        self.begin = nn.Linear(num_features, state.numel())
        self.state_shape = state.shape[0], state.shape[2]
        self.attention = ATTENTIONS[attention](self.core.num_features, num_features)
        self.mix = nn.Linear(self.core.num_features + num_features, self.core.num_features)
        self.out = nn.Linear(self.core.num_features, num_words)
        self.dropout = nn.Dropout(dropout)

    def forward(self, places: Places, tokens: Tensor) -> Tensor:
        """Logits (N, V) of the tokens of sequences (B, T) that are known, row by row without their PAD; each follows
        the true ones before it."""
        before = torch.cat([torch.full_like(tokens[:, :1], START), tokens[:, :-1]], 1)
        mixed, _, _ = self._mixed(places, before, self.initial_state(places))
        logits: Tensor = self.out(mixed[tokens != PAD])  # most of the work, so none of it for PAD
        return logits

    def initial_state(self, places: Places) -> DecoderState:
        """The state before the first token, of the mean of the places."""
        mask = places.mask[..., None]
        mean = (places.values * mask).sum(1) / places.lengths[:, None]
        core = self.begin(mean).tanh().unflatten(1, self.state_shape).transpose(0, 1).contiguous()
        return DecoderState(core, mean)

    def step(self, places: Places, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState, Tensor]:
        """Read tokens (B, T): logits (B, T, V) of what follows each, the state, and the weights (B, T, M)."""
        mixed, state, weights = self._mixed(places, tokens, state)
        return self.out(mixed), state, weights

    def _mixed(self, places: Places, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState, Tensor]:
        """What logits are made of (B, T, H), after tokens (B, T)."""
        words = self.dropout(self.words(tokens))  # (B, T, D)
        if not self.feeds_context:
            states, contexts, weights, state = self._look(places, words, state)
        else:  # a step needs the one before
            looks = []
            for word in words.split(1, 1):
                *look, state = self._look(places, torch.cat([word, state.context[:, None]], 2), state)
                looks.append(look)
            states, contexts, weights = (torch.cat(parts, 1) for parts in zip(*looks, strict=True))
        mixed = self.mix(torch.cat([states, contexts], 2)).tanh()
        return self.dropout(mixed), state, weights

    def _look(self, places: Places, x: Tensor, state: DecoderState) -> tuple[Tensor, Tensor, Tensor, DecoderState]:
        """States (B, T, H), contexts (B, T, F) and weights (B, T, M) after inputs (B, T, D), and the state."""
        reset = torch.zeros(x.shape[1], x.shape[0], dtype=torch.bool, device=x.device)
        features, core = self.core(x.transpose(0, 1), state.core, reset)
        states = features.transpose(0, 1)
        contexts, weights = self.attention(states, places)
        return states, contexts, weights, DecoderState(core, contexts[:, -1])

    def own_words(self, places: Places, tokens: Tensor, forcing: float) -> Tensor:
        """Logits (N, V) of sequences (B, T) as `forward` gives them, but that each token before is the true one with
        probability `forcing` alone, and else the one that the decoder itself finds likeliest (Bengio et al. 2015)."""
        before, state, logits = torch.full_like(tokens[:, :1], START), self.initial_state(places), []
        for number in range(tokens.shape[1]):
            step, state, _ = self.step(places, before, state)
            logits.append(step)
            true = torch.rand(len(tokens), 1, device=tokens.device) < forcing
            before = torch.where(true, tokens[:, number : number + 1], step.detach().argmax(2))
        return torch.cat(logits, 1)[tokens != PAD]

    @torch.no_grad()
    def greedy(self, places: Places, longest: int) -> Told:
        """The likeliest token at each step, until END, of at most `longest`; UNKNOWN is never told."""
        token, state = _starts(places), self.initial_state(places)
        is_over = torch.zeros_like(places.lengths, dtype=torch.bool)
        tokens, weights = [], []
        for _ in range(longest):
            logits, state, weight = self.step(places, token, state)
            token = _tellable(logits).argmax(2).masked_fill(is_over[:, None], PAD)
            tokens.append(token)
            weights.append(weight)
            is_over |= token[:, 0] == END
            if not torch.compiler.is_exporting() and is_over.all():
                break
        missing = longest - len(tokens)
        return Told(
            F.pad(torch.cat(tokens, 1), (0, missing), value=PAD), F.pad(torch.cat(weights, 1), (0, 0, 0, missing))
        )

    @torch.no_grad()
    def beam(self, places: Places, longest: int, num_beams: int, length_penalty: float) -> Tensor:
        """The sequences (B, T) of most log-probability by length ** `length_penalty`, of those in K beams."""
        num, device = len(places.lengths), places.lengths.device
        wide = Places(*(part.repeat_interleave(num_beams, 0) for part in places))  # (B K, ...)
        state, token = self.initial_state(wide), _starts(wide)
        scores = torch.full((num, num_beams), -torch.inf, device=device)
        scores[:, 0] = 0.0
        tokens = torch.empty(num, num_beams, 0, dtype=torch.int64, device=device)
        best = torch.full((num,), -torch.inf, device=device)
        told = torch.full_like(places.lengths, PAD)[:, None].expand(num, longest)
        rows = torch.arange(num, device=device)[:, None]
        for length in range(1, longest + 1):
            logits, state, _ = self.step(wide, token, state)
            log_probs = _tellable(logits)[:, 0].log_softmax(1).unflatten(0, (num, num_beams))  # (B, K, V)
            if length == longest:  # all end here
                log_probs = log_probs.masked_fill(_is_not_end(log_probs), -torch.inf)
            ended = (scores + log_probs[..., END]) / length**length_penalty  # (B, K)
            value, which = ended.max(1)
            is_better = value > best
            best = torch.where(is_better, value, best)
            row = F.pad(tokens[rows[:, 0], which], (0, 1), value=END)
            told = torch.where(is_better[:, None], F.pad(row, (0, longest - length), value=PAD), told)
            going_on = scores[..., None] + log_probs.masked_fill(~_is_not_end(log_probs), -torch.inf)
            scores, places_of = going_on.flatten(1).topk(num_beams, 1)
            beam, word = places_of // log_probs.shape[2], places_of % log_probs.shape[2]
            # what goes on can only lose: it is over where even an unchanged score, at its longest, would be worse
            if length == longest or bool((scores[:, 0] / longest**length_penalty < best).all()):
                break
            tokens = torch.cat([tokens[rows, beam], word[..., None]], 2)
            state = state.chosen((rows * num_beams + beam).flatten())
            token = word.view(-1, 1)
        return told


def _starts(places: Places) -> Tensor:
    return torch.full_like(places.lengths, START)[:, None]


def _tellable(logits: Tensor) -> Tensor:
    """Without what is no word."""
    logits = logits.clone()
    logits[..., [PAD, UNKNOWN, START]] = -torch.inf
    return logits


def _is_not_end(logits: Tensor) -> Tensor:
    return torch.arange(logits.shape[-1], device=logits.device) != END
