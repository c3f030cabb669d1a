"""Batch normalisation over ranks is that of one process on the whole batch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lab.ranks.batch_norm import normalize_whole_batches
from tests.lab.ranks.several import as_ranks, on_threads


def far_from_zero(*shape: int, mean: float = 1000.0, deviation: float = 0.1) -> Tensor:
    """Channels whose squares lose the variance in float32."""
    torch.manual_seed(0)
    return mean + deviation * torch.randn(*shape)


def results(layer: nn.Module, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Output, gradients and running statistics of one training step whose loss is a weighted sum of the output."""
    x = x.clone().requires_grad_()
    output = layer(x)
    (weights * output.sin()).sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    return {"output": output.detach(), "x": x.grad, **gradients, **dict(layer.named_buffers())}  # type: ignore[dict-item]


def results_on(folder: Path, num_ranks: int, layer: nn.Module, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """The same of ranks, each with its rows of x: rows joined, gradients of parameters summed."""

    def work(group: Any) -> dict[str, Tensor]:
        own = copy.deepcopy(layer)
        assert normalize_whole_batches(own.modules()) == (num_ranks > 1)
        return results(own, *(t.tensor_split(num_ranks)[group.rank] for t in (x, weights)))

    rows = on_threads(folder, num_ranks, work)
    joined = {key: torch.cat([row[key] for row in rows]) for key in ("output", "x")}
    summed = {name: sum(row[name] for row in rows) for name, _ in layer.named_parameters()}
    buffers = {name: rows[0][name] for name, _ in layer.named_buffers()}
    for row in rows:
        assert all(torch.equal(row[name], value) for name, value in buffers.items())
    return {**joined, **summed, **buffers}


@pytest.mark.parametrize(("num_ranks", "tolerance"), [(1, 0.2), (2, 1e-4)])
def test_a_mean_far_from_zero_leaves_the_variance_right(
    num_ranks: int, tolerance: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As torch in float64 on the whole batch; its layer in float32, which one rank uses, is less exact than two."""
    as_ranks(monkeypatch)
    x, weights = far_from_zero(256, 3), torch.randn(256, 3)
    exact = results(nn.BatchNorm1d(3).double(), x.double(), weights.double())
    computed = results_on(tmp_path, num_ranks, nn.BatchNorm1d(3), x, weights)
    for name, value in exact.items():
        assert computed[name].dtype in (torch.float32, torch.int64)
        torch.testing.assert_close(computed[name].double(), value.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d(3), (12, 3)),
        (nn.BatchNorm1d(3, affine=False), (12, 3, 5)),
        (nn.BatchNorm2d(3, momentum=None), (12, 3, 4, 5)),
        (nn.BatchNorm2d(3, track_running_stats=False), (12, 3, 4, 5)),
        (nn.BatchNorm3d(3), (12, 3, 2, 2, 2)),
    ],
)
def test_two_ranks_compute_what_one_process_computes(
    layer: nn.Module, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_ranks(monkeypatch)
    layer, x, weights = layer.double(), far_from_zero(*shape, mean=2.0, deviation=3.0).double(), torch.randn(*shape)
    for p in layer.parameters():
        nn.init.normal_(p)
    expected = results(copy.deepcopy(layer), x, weights)
    computed = results_on(tmp_path, 2, layer, x, weights)
    assert computed.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(computed[name], value, rtol=1e-9, atol=1e-9)


def test_half_precision_goes_through_float32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    as_ranks(monkeypatch)
    x, weights = torch.randn(16, 3).bfloat16(), torch.randn(16, 3)
    expected = results(nn.BatchNorm1d(3), x, weights)
    computed = results_on(tmp_path, 2, nn.BatchNorm1d(3), x, weights)
    assert computed["output"].dtype == expected["output"].dtype == torch.bfloat16
    for name, value in expected.items():
        torch.testing.assert_close(computed[name].float(), value.float(), rtol=2e-2, atol=2e-2)


def test_evaluation_uses_running_statistics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    as_ranks(monkeypatch)
    layer, x = nn.BatchNorm1d(3).eval(), torch.randn(4, 3)
    computed = results_on(tmp_path, 2, layer, x, torch.ones(4, 3))
    assert torch.equal(computed["output"], layer(x))


def test_one_process_keeps_torchs_own_layers() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3))
    assert not normalize_whole_batches(net.modules())
    assert type(net[0]) is nn.BatchNorm1d
