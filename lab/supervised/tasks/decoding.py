"""Decoding: a sequence told token by token, of whatever a backbone gives places of: a sequence, or an image.

Encoder and decoder with attention (Sutskever et al. 2014; Bahdanau et al. 2015; Xu et al. 2015). Scored free-running:
the decoder reads its own words, never the true ones. B batch, T tokens, M places.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional as F

from lab.backbones import BackboneConfig
from lab.backbones.features import FeatureKind, FeatureSpec, Places
from lab.backbones.layers import Share
from lab.data.language.vocabulary import END, PAD, UNKNOWN
from lab.data.spec import DataSpec
from lab.data.targets import Sentence
from lab.engine.loss import Loss
from lab.errors import UserError
from lab.pictures import Image
from lab.supervised.attention import AttentionKind
from lab.supervised.attention_pictures import image_weights, word_weights
from lab.supervised.decoder import Decoder
from lab.supervised.tasks.base import Task, TaskConfig
from lab.training.answer import Answer
from lab.training.learner import Monitor

_UNKNOWN = "⁇"
"""a true word that training lacks: no decoder tells it, and it counts as one word"""


class DecodingConfig(TaskConfig):
    """A sequence, word by word."""

    kind: Literal["decoding"] = "decoding"
    target: ClassVar = Sentence
    features: ClassVar[FeatureKind] = "places"
    backbone: BackboneConfig = BackboneConfig(name="gru", hidden=256)
    """what reads the words told so far; any recurrent one"""
    embedding: PositiveInt = 128
    """numbers that stand for a word"""
    attention: AttentionKind = "multiplicative"
    """how states choose places: by a product (Luong et al. 2015), a layer (additive, Bahdanau et al. 2015), or not"""
    feeds_context: bool = False
    """what attention saw is read with the next word, so that a decoder knows where it has looked (input feeding, Luong
    et al. 2015; Xu et al. 2015); slower, as words then go one after the other while it learns, too"""
    dropout: Share = 0.0
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """share of the probability that is spread over all words"""
    teacher_forcing: Annotated[float, Field(ge=0, le=1)] = 1.0
    """share of the words that are read as they are true while it learns; others are its own"""
    last_teacher_forcing: Annotated[float, Field(ge=0, le=1)] | None = None
    """that share at the end of the run, reached in a line (scheduled sampling, Bengio et al. 2015)"""
    beams: PositiveInt = 1
    """sequences that are followed side by side when it tells; 1: the likeliest word at each step"""
    length_penalty: NonNegativeFloat = 1.0
    """beams: the power of the length by which log-probabilities are divided"""

    @model_validator(mode="after")
    def _check_backbone(self) -> DecodingConfig:
        if not self.backbone.recurrent:
            raise ValueError(
                f"a decoder needs a recurrent backbone, for example gru or lstm, not {self.backbone.name!r}"
            )
        return self

    def build(self, target: Sentence, features: FeatureSpec) -> Decoding:
        return Decoding(self, target, features)


class Decoding(Task):
    """A decoder; its outputs are the places that it tells from."""

    monitor = Monitor("eval/bleu", "max")
    engines = ("eager",)  # the loss branches
    filling = PAD

    def __init__(self, config: DecodingConfig, target: Sentence, features: FeatureSpec) -> None:
        super().__init__()
        self.config, self.target = config, target
        self.decoder = Decoder(
            features.shapes[0][-1],
            len(target.vocabulary),
            backbone=config.backbone,
            embedding=config.embedding,
            attention=config.attention,
            feeds_context=config.feeds_context,
            dropout=config.dropout,
        )
        self.forcing = config.teacher_forcing

    def set_progress(self, progress: float) -> None:
        first, last = self.config.teacher_forcing, self.config.last_teacher_forcing
        self.forcing = first if last is None else first + (last - first) * progress

    def forward(self, features: Places) -> Places:
        return features

    def loss(self, outputs: Places, y: Tensor) -> Loss:
        """The cross-entropy of a word: the sum over the minibatch by as many words as one has on average."""
        logits = self.decoder(outputs, y) if self.forcing == 1 else self.decoder.own_words(outputs, y, self.forcing)
        nats = F.cross_entropy(logits, y[y != PAD], reduction="sum", label_smoothing=self.config.label_smoothing)
        loss = nats / (len(y) * self.target.mean_length)
        return Loss(loss, {"cross_entropy": loss.detach()})

    def predictions(self, outputs: Places) -> Tensor:
        """What is told (B, T), ended by END and filled with PAD."""
        if self.config.beams == 1:
            return self.decoder.greedy(outputs, self.target.longest).tokens
        return self.decoder.beam(outputs, self.target.longest, self.config.beams, self.config.length_penalty)

    def per_sample(self, outputs: Places, y: Tensor) -> dict[str, Tensor]:
        """The cross-entropy of the true words, a word, each after the true ones before it."""
        inside = y != PAD
        nats = torch.zeros(y.shape, device=y.device)
        nats[inside] = F.cross_entropy(self.decoder(outputs, y), y[inside], reduction="none").float()
        return {"forced_cross_entropy": nats.sum(1) / inside.sum(1)}

    def illustrate(self, x: Tensor, outputs: Places, spec: DataSpec) -> dict[str, Image]:
        """Which places it looks at as it tells: words of a text, or parts of an image."""
        if self.config.attention == "none":
            return {}
        told, weights = self.decoder.greedy(outputs, self.target.longest)
        texts = [self.target.vocabulary.words(row) for row in told.tolist()]
        if spec.vocabulary is not None:
            read = [spec.vocabulary.words(row) for row in (x if x.dim() == 2 else x[..., 0]).tolist()]
            samples = [one for one in zip(read, texts, weights, strict=True) if one[1]]
            return {"attention": word_weights(samples)} if samples else {}
        if x.dim() == 4 and x.shape[1] in (1, 3):
            grids = zip(x, texts, weights, strict=True)
            return {f"attention_{i}": image_weights(*each) for i, each in enumerate(grids, 1) if each[1]}
        return {}

    def scores(self) -> SentenceScores:
        return SentenceScores(self.target)

    def answers(self, predictions: Tensor) -> list[Answer]:
        return [Answer(text, {}) for text in self.truths(predictions)]

    def truths(self, y: Tensor) -> list[str]:
        return [self.target.vocabulary.text(row) for row in y.tolist()]


class SentenceScores:
    """Corpus BLEU from 0 to 100 (Papineni et al. 2002) by sacrebleu (Post 2018), and how many are told exactly.

    Its signature is nrefs:1|case:mixed|eff:no|tok:none|smooth:exp: words are those of the data, as they are cut there.
    """

    def __init__(self, target: Sentence) -> None:
        self.target = target
        self.num_exact = 0
        self.told: list[str] = []
        self.true: list[str] = []

    def update(self, predictions: Tensor, y: Tensor) -> None:
        for predicted, true in zip(predictions.tolist(), y.tolist(), strict=True):
            told, wanted = _ended(predicted), _ended(true)
            self.num_exact += told == wanted and UNKNOWN not in wanted
            self.told.append(self._line(told))
            self.true.append(self._line(wanted))

    def compute(self) -> dict[str, Tensor]:
        try:
            from sacrebleu.metrics import BLEU
        except ImportError:
            raise UserError("scores of what is told need sacrebleu: pip install sacrebleu.") from None

        bleu = BLEU(tokenize="none", force=True).corpus_score(self.told, [self.true]).score
        return {
            "bleu": torch.tensor(bleu, dtype=torch.float64),
            "exact_match": torch.tensor(self.num_exact / max(len(self.true), 1), dtype=torch.float64),
        }

    def _line(self, tokens: list[int]) -> str:
        symbols = self.target.vocabulary.symbols
        return " ".join(_UNKNOWN if token == UNKNOWN else symbols[token] for token in tokens)


def _ended(tokens: list[int]) -> list[int]:
    """The tokens before the first END."""
    return tokens[: tokens.index(END)] if END in tokens else [token for token in tokens if token != PAD]
