"""Summaries of backbones: rows by hand, totals against torch's own counter, memory against what autograd keeps.

B batch, T steps, D numbers of a step, F features.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.flop_counter import FlopCounterMode

from lab.backbones import BACKBONES, BackboneConfig, build_backbone
from lab.backbones.registry import Backbone
from lab.backbones.summary import Summary, summarize
from lab.backbones.summary.kinds import kind_of
from lab.backbones.summary.trace import Row, trace_layers
from tests.lab.backbones.registered import NAMES, each

each_summary = each(NAMES, slow=lambda name: not BACKBONES[name].factory.__module__.startswith("lab."))
"""the networks of other packages call operators for which torch first loads its compiler: a second, once a process"""


def example(name: str, **options: Any) -> Backbone:
    return build_backbone(BackboneConfig(name, **options), BACKBONES[name].example_shape)


@cache
def summary_of(name: str) -> Summary:
    return summarize(example(name), num_steps=4)


def rows_of(net: nn.Module, *shape: int) -> list[Row]:
    return trace_layers(net.eval(), [torch.zeros(1, *shape)])


def counted_by_torch(backbone: Backbone, batch_size: int, num_steps: int) -> int:
    """The multiply-adds of a pass, with kernels of which torch knows how much they multiply."""
    x = torch.zeros(batch_size, *backbone.input_shape)
    inputs: tuple[Tensor, ...] = (x,)
    if backbone.recurrent:
        steps = torch.zeros(num_steps, batch_size, *backbone.input_shape)
        inputs = steps, backbone.initial_state(batch_size), torch.zeros(num_steps, batch_size).bool()
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        torch.backends.mkldnn.flags(enabled=False),
    ):
        backbone.eval()(*inputs)
    return counter.get_total_flops() // 2


@each_summary
def test_rows_add_up_to_the_whole(name: str) -> None:
    backbone, summary = example(name), summary_of(name)
    assert sum(row.multiply_adds for row in summary.rows) == summary.multiply_adds == counted_by_torch(backbone, 1, 4)
    assert sum(row.parameters for row in summary.rows) == sum(p.numel() for p in backbone.parameters())
    assert summary.output_bytes == sum(row.output_bytes for row in summary.rows)
    assert summary.output_bytes > 0 or name == "linear"  # which hands on what it is given
    assert len({(row.name, row.kind, row.output_shape) for row in summary.rows}) == len(summary.rows)


@each_summary
def test_batches_and_steps_count_as_they_run(name: str) -> None:
    backbone = example(name)
    one, summary = summary_of(name), summarize(backbone, 3, 4)
    assert summary.multiply_adds == counted_by_torch(backbone, 3, 4)
    assert summary.output_bytes == 3 * one.output_bytes
    assert summary.num_steps == (4 if backbone.recurrent else None)
    assert (summary.parameters, summary.weight_bytes) == (one.parameters, one.weight_bytes)


@each_summary
def test_convolutions_and_linear_layers_multiply_as_the_formula_says(name: str) -> None:
    """Each number of the output is a sum over the kernel and the channels of its group."""
    backbone = example(name)
    modules = dict(backbone.net.named_modules())
    for row in summary_of(name).rows:
        module = modules.get(row.name.partition(" ")[0])  # none for a parameter outside of layers
        if type(module) in (nn.Conv1d, nn.Conv2d, nn.Linear):
            outputs = torch.Size(row.output_shape or ()).numel() * row.calls
            assert row.multiply_adds == outputs * module.weight[0].numel(), row


def test_lenet_by_hand() -> None:
    summary = summarize(example("lenet"))
    assert summary.rows == (
        Row("1", "Conv2d 5x5 pad 2", 1, (16, 28, 28), 16 * 25 + 16, 16 * 784 * 25, 4 * 16 * 784, (5, 5)),
        Row("2", "ReLU", 1, (16, 28, 28), 0, 0, 4 * 16 * 784, (5, 5)),
        Row("3", "MaxPool2d 2x2/2", 1, (16, 14, 14), 0, 0, 4 * 16 * 196, (6, 6)),
        Row("4", "Conv2d 5x5 pad 2", 1, (32, 14, 14), 32 * 16 * 25 + 32, 32 * 196 * 16 * 25, 4 * 32 * 196, (14, 14)),
        Row("5", "ReLU", 1, (32, 14, 14), 0, 0, 4 * 32 * 196, (14, 14)),
        Row("6", "MaxPool2d 2x2/2", 1, (32, 7, 7), 0, 0, 4 * 32 * 49, (16, 16)),
        Row("8", "Linear 1568 -> 128", 1, (128,), 1568 * 128 + 128, 1568 * 128, 4 * 128, None),
        Row("9", "ReLU", 1, (128,), 0, 0, 4 * 128, None),
    )
    assert (summary.parameters, summary.multiply_adds) == (214_080, 3_023_104)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_memory_of_training_by_hand(batch_size: int) -> None:
    """Autograd keeps inputs of layers with weights, outputs of ReLUs, and in 8 bytes where each maximum was."""
    numbers = 784 + 16 * 784 + 16 * 196 + 32 * 196 + 32 * 49 + 128
    places = 16 * 196 + 32 * 49
    summary = summarize(example("lenet"), batch_size)
    assert summary.weight_bytes == 4 * 214_080
    assert summary.training_bytes == 4 * 4 * 214_080 + batch_size * (4 * numbers + 8 * places)


def test_parameters_that_do_not_train_have_no_gradient_and_no_moments() -> None:
    backbone = example("mlp", hidden=(5,))
    before = summarize(backbone)
    backbone.requires_grad_(False)
    frozen = summarize(backbone)
    assert (before.trainable_parameters, frozen.trainable_parameters, frozen.parameters) == (25, 0, 25)
    assert frozen.training_bytes == frozen.weight_bytes == 4 * 25
    assert before.training_bytes == 4 * 4 * 25 + 4 * (4 + 5)  # the input of the linear layer, the output of the ReLU


def test_alexnets_first_layers_have_the_published_sizes() -> None:
    """Krizhevsky 2014 on 224x224 pixels: (224 - 11 + 2 * 2) / 4 + 1 = 55, then 27, 27 and 13."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
    )
    rows = rows_of(net, 3, 224, 224)
    assert [row.output_shape[1] for row in rows if row.output_shape] == [55, 55, 27, 27, 27, 13]
    assert [row.parameters for row in rows if row.parameters] == [23_296, 307_392]
    assert [row.multiply_adds for row in rows if row.multiply_adds] == [70_276_800, 223_948_800]
    assert [row.output_bytes for row in rows if "ReLU" in row.kind] == [0, 0]


@pytest.mark.parametrize(
    ("layer", "kind", "multiply_adds"),
    [
        (nn.Conv2d(4, 8, 3, groups=2), "Conv2d 3x3 groups 2", 8 * 36 * 2 * 9),
        (nn.Conv2d(4, 4, 3, groups=4, padding=2, dilation=2), "Conv2d 3x3 pad 2 dilation 2 groups 4", 4 * 64 * 9),
        (nn.Conv2d(4, 2, (1, 5), (1, 2), (0, 2)), "Conv2d 1x5/1x2 pad 0x2", 2 * 32 * 4 * 5),
        (nn.Conv2d(4, 2, 3, padding="same"), "Conv2d 3x3 pad same", 2 * 64 * 4 * 9),
        (nn.ConvTranspose2d(4, 6, 4, 2, 1), "ConvTranspose2d 4x4/2 pad 1", 4 * 64 * 6 * 16),
        (nn.ConvTranspose2d(4, 6, 2, 2, groups=2), "ConvTranspose2d 2x2/2 groups 2", 4 * 64 * 3 * 4),
        (weight_norm(nn.Conv2d(4, 2, 1)), "Conv2d 1x1", 2 * 64 * 4),
        (spectral_norm(nn.Conv2d(4, 2, 1)), "Conv2d 1x1", 2 * 64 * 4),
        (nn.Linear(8, 3), "Linear 8 -> 3", 4 * 8 * 8 * 3),
        (nn.BatchNorm2d(4), "BatchNorm2d", 0),
        (nn.AvgPool2d(3, 2, 1), "AvgPool2d 3x3/2 pad 1", 0),
        (nn.AdaptiveAvgPool2d((2, 3)), "AdaptiveAvgPool2d 2x3", 0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_kinds_of_layers(layer: nn.Module, kind: str, multiply_adds: int) -> None:
    (row,) = rows_of(nn.Sequential(layer), 4, 8, 8)
    assert (row.name, row.kind, row.multiply_adds) == ("0", kind, multiply_adds)
    assert row.parameters == sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize("num_steps", [1, 7])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize(("name", "gates"), [("lstm", 4), ("gru", 3)])
def test_recurrent_cores_multiply_in_every_step(name: str, gates: int, num_layers: int, num_steps: int) -> None:
    """Gates from the input (8) or the layer below (16), and from the state (16); a single step calls a cell alone."""
    (row,) = summarize(example(name, hidden=16, num_layers=num_layers), 2, num_steps).rows
    each = gates * 16 * (8 + 16 + (num_layers - 1) * (16 + 16))
    assert row.multiply_adds == 2 * num_steps * each
    assert (row.name, row.output_shape) == ("core", (num_steps, 16) if num_steps > 1 or num_layers > 1 else (16,))
    assert row.kind == f"{name.upper()} 8 -> 16" + (" 3 layers" if num_layers > 1 else "")


def test_a_recurrent_layer_that_runs_both_ways() -> None:
    for core, gates in ((nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)):
        (row,) = rows_of(core(5, 6, bidirectional=True, batch_first=True), 7, 5)
        assert row.multiply_adds == 2 * 7 * gates * 6 * (5 + 6)
        assert (row.kind, row.output_shape) == (f"{core.__name__} 5 -> 6 both ways", (7, 12))


def test_attention_layers_take_no_shortcut() -> None:
    """T = 5 places of 8 numbers: four maps of 8 to 8, both products, then two layers of 8 and 16."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    rows = {row.name: row for row in rows_of(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), 5, 8)}
    assert rows["layers.1.self_attn"].kind == "MultiheadAttention 2 heads"
    assert rows["layers.1.self_attn"].multiply_adds == 5 * 4 * 8 * 8 + 2 * 5 * 5 * 8
    assert rows["layers.1.linear2"].multiply_adds == 5 * 8 * 16
    assert sum(row.parameters for row in rows.values()) == 2 * sum(p.numel() for p in layer.parameters())
    assert torch.backends.mha.get_fastpath_enabled()


class Reusing(nn.Module):
    """One ReLU and one block in two places, functions that are no modules, products, and what is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.relu = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.ReLU()
        self.mix = nn.Parameter(torch.ones(4, 4))
        self.scale = nn.Parameter(torch.ones(4))
        self.tied, self.auxiliary = nn.Linear(4, 4, bias=False), nn.Linear(4, 2)
        self.tied.weight = self.first.weight
        self.functional = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = self.relu(self.block(self.block(x)))
        x = F.relu(x @ self.mix) * self.scale
        return F.linear(self.tied(x), self.functional.weight, self.functional.bias)


def test_layers_that_come_again_products_and_layers_that_do_not_run() -> None:
    rows = rows_of(Reusing(), 4)
    assert [(row.name, row.kind, row.parameters, row.multiply_adds) for row in rows] == [
        ("first", "Linear 4 -> 4", 20, 16),
        ("relu", "ReLU", 0, 0),
        ("block.0", "Linear 4 -> 4", 20, 16),
        ("block.1", "ReLU", 0, 0),
        ("block.0 (2)", "Linear 4 -> 4", 0, 16),
        ("block.1 (2)", "ReLU", 0, 0),
        ("relu (2)", "ReLU", 0, 0),
        ("", "matmul", 16, 16),
        ("tied", "Linear 4 -> 4", 0, 16),
        ("functional", "Linear 4 -> 3", 15, 12),
        ("scale", "Parameter 4", 4, 0),
        ("auxiliary", "Linear 4 -> 2", 10, 0),
    ]
    assert [row.output_shape for row in rows[-2:]] == [None, None]


def test_steps_of_a_loop_share_a_row() -> None:
    rows = summarize(example("row_lstm", layers=1)).rows
    assert [(row.name, row.calls) for row in rows if row.calls > 1] == [("lstms.0.from_state", 8)]


def test_a_network_is_left_as_it_was() -> None:
    backbone = example("resnet", norm="batch").train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    summarize(backbone, 4)
    assert backbone.training
    assert all(module.training for module in backbone.modules())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())
    assert all(p.grad is None and p.requires_grad for p in backbone.parameters())
    backbone(torch.rand(2, 3, 32, 32)).sum().backward()


def test_a_summary_is_plain_values() -> None:
    summary = summarize(example("lenet"))
    assert set(summary.to_dict()) == set(Summary._fields)
    assert summary.to_dict()["rows"][0]["kind"] == kind_of(nn.Conv2d(1, 16, 5, padding=2))
