"""The language model's arithmetic, its carried state, and what it learns."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from lab.backbones import BackboneConfig
from lab.config.overrides import resolve
from lab.data.text import TextData, TextModule
from lab.errors import UserError
from lab.supervised.language_model import LanguageModel, LanguageModelConfig, draw

TEXT = "jackdaws love my big sphinx of quartz. " * 120


def build(name: str = "lstm", text: str = TEXT, **data: object) -> tuple[LanguageModel, TextModule]:
    torch.manual_seed(0)
    options = {"batch_size": 4, "window": 8, "batches_per_step": 4, "validation": 0.1, "test": 0.1, **data}
    module = TextModule(TextData(**options), text, 0)  # type: ignore[arg-type]
    return LanguageModelConfig(backbone=BackboneConfig(name=name, hidden=24), embedding=8).build(module.spec), module


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_the_carried_state_makes_windows_one_long_text(name: str) -> None:
    """With a learning rate of nothing, losses over carried windows equal one forward pass over the whole stretch."""
    model, data = build(name)
    model.updater.set_progress(0.0)
    for group in model.updater.optimizer.param_groups:
        group["lr"] = 0.0
    windows = list(data.next_chunk())
    x, y = torch.cat([w.x for w in windows]), torch.cat([w.y for w in windows])
    with torch.no_grad():
        logits, state = model.net(x, model.net.backbone.initial_state(4))
        expected = F.cross_entropy(logits.flatten(0, 1), y.flatten()) / math.log(2)
    metrics = model.training_step(iter(windows))  # type: ignore[arg-type]
    torch.testing.assert_close(metrics["losses/bits_per_char"], expected)
    torch.testing.assert_close(model.state, state)
    assert model.counters == {"samples": 4 * 8 * 4, "updates": 4}


def test_a_new_pass_clears_the_state() -> None:
    model, data = build()
    first = next(iter(data.next_chunk()))
    assert first.starts
    model.state = torch.full_like(model.net.backbone.initial_state(4), 5.0)
    for group in model.updater.optimizer.param_groups:
        group["lr"] = 0.0
    model.training_step(iter([first]))  # type: ignore[arg-type]
    with torch.no_grad():
        _, expected = model.net(first.x, model.net.backbone.initial_state(4))
    torch.testing.assert_close(model.state, expected)


def test_evaluation_is_the_mean_over_every_character_of_the_split() -> None:
    model, data = build()
    codes = data.split("val")
    model.eval()
    with torch.no_grad():
        metrics = model.evaluate(data, "val")
        logits, _ = model.net(codes[:-1, None], model.net.backbone.initial_state(1))
    nats = float(F.cross_entropy(logits[:, 0], codes[1:]))  # the split is shorter than a stream, so one stream reads it
    assert metrics["eval/bits_per_char"] == pytest.approx(nats / math.log(2), rel=1e-5)
    assert metrics["eval/perplexity"] == pytest.approx(math.exp(nats), rel=1e-5)


def test_evaluation_in_streams_counts_each_character_once() -> None:
    """A model that gives every character the same probability has log2(A) bits, whatever the padding."""
    model, data = build(text=TEXT * 10)
    torch.nn.init.zeros_(model.net.head.weight)
    torch.nn.init.zeros_(model.net.head.bias)
    with torch.no_grad():
        assert model.evaluate(data)["eval/bits_per_char"] == pytest.approx(math.log2(len(data.alphabet)), rel=1e-5)


@pytest.mark.slow
def test_it_learns_a_text_that_repeats_and_writes_it() -> None:
    model, data = build("gru")
    model.updater.set_progress(0.0)
    for _ in range(120):
        model.training_step(data.next_chunk())
    model.eval()
    with torch.no_grad():
        assert model.evaluate(data, "test")["eval/bits_per_char"] < 0.3
    assert (
        model.sample_text(2, 30, prompt="love my big ", temperature=0) == ["sphinx of quartz. jackdaws love"[:30]] * 2
    )


def test_sampling() -> None:
    model, _ = build()
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    one, other = (model.sample_text(3, 10, prompt="j", generator=generator) for generator in generators)
    assert one == other
    assert [len(text) for text in one] == [10, 10, 10]
    assert model.sample_text(2, 0, prompt="j") == ["", ""]
    for prompt in ("", "Z"):
        with pytest.raises(UserError, match="prompt"):
            model.sample_text(1, 5, prompt=prompt)


def test_draws_follow_the_tempered_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    for temperature in (0.5, 1.0, 2.0):
        drawn = draw(logits.expand(40_000, 3), temperature, generator)
        shares = torch.bincount(drawn, minlength=3) / 40_000
        torch.testing.assert_close(shares, torch.softmax(logits / temperature, 0), atol=0.01, rtol=0)
    assert draw(logits[None], 0.0).tolist() == [2]


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["module.backbone.name=mlp"], "carries no state"),
        (["data.kind=images", "data.name=digits"], "needs text"),
        (["data.window=400000"], "too few"),
        (["data.batch_size=400000"], "too few"),
    ],
)
def test_what_does_not_fit_is_said(overrides: list[str], part: str) -> None:
    experiment = resolve("lm/reference-gru", overrides)
    with pytest.raises(UserError, match=part):
        experiment.module.build(experiment.data.build(0).spec)


def test_the_k_likeliest_classes_alone_are_drawn() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]]).expand(5_000, 4)
    drawn = draw(logits, 1.0, torch.Generator().manual_seed(0), top_k=2)
    shares = torch.bincount(drawn, minlength=4) / 5_000
    torch.testing.assert_close(shares, torch.tensor([0, 0.731, 0, 0.269]), atol=0.02, rtol=0)
    assert set(draw(logits, 1.0, top_k=1).tolist()) == {1}
    assert len(draw(logits, 1.0, top_k=9).unique()) == 4


def test_beams_that_hold_everything_give_the_likeliest_text() -> None:
    model, data = build(text="abc" * 400)
    model.eval()
    torch.nn.init.normal_(model.net.head.weight)

    def log_probability(text: str) -> float:
        codes = data.encode("a" + text)
        logits, _ = model.net(codes[:-1, None], model.net.backbone.initial_state(1))
        return -float(F.cross_entropy(logits[:, 0], codes[1:], reduction="sum"))

    with torch.no_grad():
        every = ["".join(letters) for letters in itertools.product("abc", repeat=4)]
        assert model.likeliest_text(4, prompt="a", beams=27) == max(every, key=log_probability)
        assert model.likeliest_text(4, prompt="a", beams=1) == model.sample_text(1, 4, prompt="a", temperature=0)[0]


def test_a_model_of_words_counts_and_tells_words() -> None:
    model, data = build(text="one two three\n" * 100, unit="words")
    model.eval()
    torch.nn.init.zeros_(model.net.head.weight)
    torch.nn.init.zeros_(model.net.head.bias)
    with torch.no_grad():
        assert model.evaluate(data)[model.monitor.metric] == pytest.approx(math.log2(5), rel=1e-5)
    assert model.monitor.metric == "eval/bits_per_word"
    (text,) = model.sample_text(1, 50, prompt="one four")
    assert set(text.split()) <= {"one", "two", "three"}
    assert "<unk>" not in model.likeliest_text(10, prompt="one")
