"""Language models of characters or words: any recurrent backbone, truncated backpropagation through time (Mikolov et
al. 2010).

The state is carried from one window of text to the next; gradients stop at the window's start.
T symbols in a window, B streams, A symbols in the alphabet, S state rows, F features.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones import BackboneConfig, build_backbone
from lab.backbones.layers import Share
from lab.data.module import LabDataModule
from lab.data.spec import DataSpec
from lab.data.targets import Symbols
from lab.data.text import TextModule, Window, cut_text
from lab.engine.loss import Loss, Metrics
from lab.engine.optimizers import OptimizerConfig
from lab.errors import UserError
from lab.experiment import ModuleConfig
from lab.long_work import told
from lab.training.answer import Answer
from lab.training.learner import Learner, Monitor

_EVAL_STREAMS = 64
_EVAL_WINDOW = 256
_MOST_TOLD = 100
"""symbols whose probabilities an answer gives"""


class LanguageModelConfig(ModuleConfig):
    """Prediction of the next character or word with a recurrent backbone."""

    kind: Literal["language_model"] = "language_model"
    backbone: BackboneConfig = BackboneConfig(name="gru", hidden=256)
    embedding: PositiveInt = 64
    """numbers that stand for one symbol at the backbone's input"""
    dropout: Share = 0.0
    """share of the features, and of the numbers of the embedding, that are dropped while it learns"""
    optimizer: OptimizerConfig = OptimizerConfig(lr=3e-3, max_grad_norm=1.0)

    def build(self, spec: DataSpec) -> LanguageModel:
        return LanguageModel(self, spec)


class StatefulWindow(NamedTuple):
    """Symbols x (T, B), the symbols y (T, B) that follow each, and the state (S, B, F) before them."""

    x: Tensor
    y: Tensor
    state: Tensor


class LanguageModelNet(nn.Module):
    """Logits (T, B, A) of the symbols that follow symbols (T, B)."""

    def __init__(self, config: LanguageModelConfig, num_symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_symbols, config.embedding)
        self.backbone = build_backbone(config.backbone, (config.embedding,))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(self.backbone.num_features, num_symbols)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        reset = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
        features, state = self.backbone(self.dropout(self.embedding(x)), state, reset)  # (T, B, F), (S, B, F)
        return self.head(self.dropout(features)), state


class LanguageModel(Learner[LanguageModelConfig]):
    """Trains a LanguageModelNet; a sample is one character or word."""

    rank_state = {"state": 1}

    def __init__(self, config: LanguageModelConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not isinstance(spec.target, Symbols):
            raise UserError(f"module.kind='language_model' needs text (data.kind=text), not {spec.target!r}.")
        if not config.backbone.recurrent:
            raise UserError(
                f"module.backbone.name={config.backbone.name!r} carries no state from symbol to symbol; "
                f"a language model needs a recurrent backbone, for example gru or lstm."
            )
        self.alphabet, self.unit, self.lower = spec.target
        self.rate = "bits_per_char" if self.unit == "characters" else "bits_per_word"
        """what the information of a symbol is called"""
        self.net = LanguageModelNet(config, len(self.alphabet))
        self.updater = self.add_updater("net", self.net, self.loss, config.optimizer)
        self.state: Tensor | None = None  # (S, B, F)

    @property
    def monitor(self) -> Monitor:  # type: ignore[override]
        return Monitor(f"eval/{self.rate}", "min")

    def loss(self, batch: StatefulWindow) -> Loss:
        logits, state = self.net(batch.x, batch.state)
        nll = F.cross_entropy(logits.flatten(0, 1), batch.y.flatten())
        return Loss(nll, {self.rate: nll.detach() / math.log(2)}, {"state": state.detach()})

    def update(self, batch: Window) -> Metrics:
        """One update on a window, from the state that the window before it left; gradients stop at its start."""
        if batch.starts or self.state is None:
            self.state = self.net.backbone.initial_state(batch.x.shape[1])
        metrics, extras = self.updater.step(StatefulWindow(batch.x, batch.y, self.state))
        self.state = extras["state"]
        return metrics

    def num_samples(self, batch: Window) -> int:
        return batch.x.numel()

    def evaluate(self, data: LabDataModule, split: Literal["val", "test"] = "val", **options: Any) -> dict[str, float]:
        """Bits a symbol over the whole split, read in up to 64 streams that each start with a cleared state."""
        assert isinstance(data, TextModule)
        bits = self._bits_per_symbol(data.split(split), split)
        return {f"eval/{self.rate}": bits, "eval/perplexity": 2**bits}

    def training_score(self, sample: Tensor) -> tuple[Monitor, float]:
        return self.monitor, self._bits_per_symbol(sample, "train")

    def _bits_per_symbol(self, codes: Tensor, split: str) -> float:
        num_streams = max(1, min(_EVAL_STREAMS, len(codes) // _EVAL_WINDOW))
        length = -(-(len(codes) - 1) // num_streams)
        x, y = (F.pad(part, (0, num_streams * length - len(part)), value=-1) for part in (codes[:-1], codes[1:]))
        state, nats = self.net.backbone.initial_state(num_streams), 0.0
        streams = (part.view(num_streams, length).T.split(_EVAL_WINDOW) for part in (x.clamp(min=0), y))
        for inputs, targets in told(f"reading the {split} split", list(zip(*streams, strict=True))):
            logits, state = self.net(inputs, state)
            nats += float(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum"))
        return nats / (len(codes) - 1) / math.log(2)

    @torch.no_grad()
    def answers(self, x: Tensor) -> list[Answer]:
        """Of texts (B, N): the most probable next symbol, and the bits that each symbol of the text took."""
        logits, _ = self.net(x.T, self.net.backbone.initial_state(len(x)))  # (N, B, A)
        bits = F.cross_entropy(logits[:-1].permute(1, 2, 0), x[:, 1:], reduction="none").sum(1) / math.log(2)
        values, places = logits[-1].softmax(1).topk(min(_MOST_TOLD, len(self.alphabet)), 1)
        return [
            Answer(
                repr(self.alphabet[row[0]]),
                {
                    **({self.rate: float(total) / (x.shape[1] - 1)} if x.shape[1] > 1 else {}),
                    "probability": p[0],
                    "probabilities": {self.alphabet[place]: value for place, value in zip(row, p, strict=True)},
                },
            )
            for row, p, total in zip(places.tolist(), values.tolist(), bits, strict=True)
        ]

    def sample_text(
        self,
        num: int,
        length: int,
        *,
        prompt: str = "\n",
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> list[str]:
        """Texts of `length` symbols that go on from `prompt`, which is not part of them.

        Args:
            temperature: below 1, more typical text; 0 always takes the likeliest symbol.
            top_k: draw among so many likeliest symbols alone (Fan et al. 2018).
            generator: source of all randomness, on the module's device; by default torch's global one.

        Raises:
            UserError: when the prompt is empty or has a character that the training text lacks.
        """
        x = self._prompt(prompt)[:, None].expand(-1, num)
        state, drawn = self.net.backbone.initial_state(num), []
        with torch.no_grad():
            for _ in range(length):
                logits, state = self.net(x, state)
                x = draw(self._tellable(logits[-1]), temperature, generator, top_k)[None]  # (1, B)
                drawn.append(x[0])
        columns = torch.stack(drawn, 1).tolist() if drawn else [[]] * num
        return [self._text(column) for column in columns]

    @torch.no_grad()
    def likeliest_text(self, length: int, *, prompt: str = "\n", beams: int = 4) -> str:
        """The text of `length` symbols of most probability among those that so many beams follow.

        Raises UserError as `sample_text` does.
        """
        logits, state = self.net(self._prompt(prompt)[:, None], self.net.backbone.initial_state(1))
        log_probs = self._tellable(logits[-1]).log_softmax(1)  # (K, A) of K beams
        scores, texts = torch.zeros(1, 1, device=self.device), torch.empty(1, 0, dtype=torch.int64, device=self.device)
        for number in range(length):
            scores, best = (scores + log_probs).flatten().topk(min(beams, log_probs.numel()))
            beam, symbol = best // log_probs.shape[1], best % log_probs.shape[1]
            scores, texts = scores[:, None], torch.cat([texts[beam], symbol[:, None]], 1)
            if number < length - 1:
                logits, state = self.net(symbol[None], state[:, beam])
                log_probs = self._tellable(logits[-1]).log_softmax(1)
        return self._text(texts[0].tolist())

    def _prompt(self, prompt: str) -> Tensor:
        """The symbols (N,) of a prompt, whose words may be unknown."""
        places = {symbol: place for place, symbol in enumerate(self.alphabet)}
        codes = [
            places.get(each, 0 if self.unit == "words" else -1)
            for each in cut_text(prompt.lower() if self.lower else prompt, self.unit)
        ]
        if not codes or min(codes) < 0:
            raise UserError(f"prompt {prompt!r} needs one or more {self.unit} of the training text's alphabet.")
        return torch.tensor(codes, device=self.device)

    def _tellable(self, logits: Tensor) -> Tensor:
        """Without what stands for unknown words."""
        if self.unit == "words":
            logits = logits.clone()
            logits[..., 0] = -torch.inf
        return logits

    def _text(self, codes: list[int]) -> str:
        symbols = [self.alphabet[code] for code in codes]
        return "".join(symbols) if self.unit == "characters" else " ".join(symbols).replace(" \n ", "\n")

    def train_state(self) -> dict[str, Any]:
        return {**super().train_state(), "state": self.state}

    def load_train_state(self, state: dict[str, Any]) -> None:
        super().load_train_state(state)
        self.state = None if state["state"] is None else state["state"].to(self.device)


def draw(
    logits: Tensor, temperature: float, generator: torch.Generator | None = None, top_k: int | None = None
) -> Tensor:
    """Classes (B,) drawn from softmax(logits / temperature), logits (B, A), of the `top_k` likeliest where given; at
    temperature 0 the likeliest."""
    if temperature == 0:
        return logits.argmax(-1)
    if top_k is not None and top_k < logits.shape[-1]:
        values, places = logits.topk(top_k)
        return places.gather(1, draw(values, temperature, generator)[:, None])[:, 0]
    return torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)[:, 0]
