"""lab show backbone: the table, JSON, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lab.backbones import BACKBONES, BackboneConfig, build_backbone
from lab.backbones.summary import summarize
from lab.backbones.summary.table import short
from tests.lab.backbones.registered import NAMES, each


@each(NAMES)
def test_every_backbone_is_shown(lab: Any, name: str) -> None:
    done = lab("show", "backbone", name)
    summary = summarize(build_backbone(BackboneConfig(name), BACKBONES[name].example_shape))
    assert done.code == 0, done.err
    assert "its example shape (--input takes another)" in done.out
    assert f"parameters     {summary.parameters:,} (trainable {summary.parameters:,})" in done.out
    assert all(any(line.split()[:1] == row.name.split()[:1] for line in done.out.splitlines()) for row in summary.rows)


def test_options_input_and_batch(lab: Any) -> None:
    words = ("show", "backbone", "resnet", "channels=[4,8]", "--input", "3,64,48", "--batch", 2)
    done = lab(*words)
    assert done.out.startswith("resnet channels=[4,8]: input 3x64x48 ")
    row = next(line.split() for line in done.out.splitlines() if line.split()[:1] == ["1"])
    assert row == ["1", "Conv2d", "3x3", "pad", "1", "4x64x48", "112", "664", "k", "98.3", "kB", "3x3"]
    assert "for 2 samples" in done.out
    shown = json.loads(lab(*words, "--json").out)
    assert (shown["name"], shown["input_shape"], shown["batch_size"]) == ("resnet", [3, 64, 48], 2)
    options = {"channels": [4, 8], "blocks": 1, "norm": "group", "hidden": 0}
    options |= {"init": "default", "bias": None, "from_run": None, "frozen": False}
    assert shown["options"] == options
    assert sum(each["multiply_adds"] for each in shown["rows"]) == shown["multiply_adds"]
    assert [each["receptive_field"] for each in shown["rows"][::10]] == [[3, 3], [13, 13]]


def test_steps_of_recurrent_backbones(lab: Any) -> None:
    one, ten = (json.loads(lab("show", "backbone", "gru", "--steps", n, "--json").out) for n in (1, 10))
    assert ten["multiply_adds"] == 10 * one["multiply_adds"]
    assert "for 1 sample of 10 steps" in lab("show", "backbone", "gru", "--steps", 10).out


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_tables_fit_the_terminal(columns: int) -> None:
    from rich.console import Console

    from lab.backbones.summary.table import summary_table

    console = Console(width=columns, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(summary_table(summarize(build_backbone(BackboneConfig("pixelcnn_pp"), (3, 8, 8))), "title"))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= columns
    assert "mult-adds" in text
    assert "12,320" in text


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "say which backbone: alexnet, "),
        (["resnt"], "unknown backbone 'resnt'. Did you mean 'resnet'?"),
        (["resnet", "chanels=[3]"], "unknown option of backbone 'resnet' 'chanels'. Did you mean 'channels'?"),
        (["resnet", "name=lenet"], "unknown option of backbone 'resnet' 'name'"),
        (["resnet", "channels=3"], "channels=3 is not valid for backbone 'resnet': write it as a list: [3]"),
        (["resnet", "norm=nothing"], "norm='nothing' is none of batch, group, none"),
        (["resnet", "channels"], "write field=value, for example channels=[16,32]"),
        (["resnet", "--input", "3,32"], "backbone 'resnet' cannot take inputs of shape (3, 32)"),
        (["nature_cnn", "--input", "3,32,32"], "backbone 'nature_cnn' cannot take inputs of shape (3, 32, 32)"),
        (["resnet", "--input", "3,x,32"], "'3,x,32' is no shape; write whole numbers, e.g. 3,224,224"),
        (["resnet", "--input", "3,0,32"], "'3,0,32' is no shape"),
        (["resnet", "--batch", "0"], "'0' is no whole number from 1"),
        (["mlp", "--steps", "3"], "--steps is for recurrent backbones; mlp reads no sequences"),
    ],
)
def test_what_is_wrong_is_one_sentence(lab: Any, words: list[str], part: str) -> None:
    done = lab("show", "backbone", *words)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert part in done.err


def test_options_of_backbones_are_none_of_recipes(lab: Any) -> None:
    done = lab("show", "classifier/digits-cnn", "--json")
    assert done.code == 2
    assert "--json is an option of lab show backbone NAME" in done.err


def test_numbers_in_few_characters() -> None:
    numbers = [0, 999, 1000, 12_345, 999_499, 999_500, 138_357_544, 15_470_264_320, 10**16]
    assert [short(n) for n in numbers] == ["0 ", "999 ", "1 k", "12.3 k", "999 k", "1 M", "138 M", "15.5 G", "10,000 T"]
