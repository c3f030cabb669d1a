"""Losses against torch, scikit-learn and their equations, and what they are where nothing is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lab.backbones.features import FeatureSpec
from lab.data.targets import Classes
from lab.supervised.losses import LOSSES, above_right, cross_entropy, focal, of_shares
from lab.supervised.tasks.classification import ClassificationConfig

K = 4
SCORES = torch.randn(30, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
Y = torch.arange(30) % K


def by_hand(term: Callable[[list[float], int], float]) -> Tensor:
    return torch.tensor([term(row, int(y)) for row, y in zip(SCORES.tolist(), Y, strict=True)], dtype=torch.float64)


def softmax(s: list[float]) -> list[float]:
    return [math.exp(v) / sum(map(math.exp, s)) for v in s]


EQUATIONS: dict[str, Callable[[list[float], int], float]] = {
    "hinge": lambda s, r: sum(max(0.0, s[j] - s[r] + 1) for j in range(K) if j != r),
    "squared_hinge": lambda s, r: sum(max(0.0, s[j] - s[r] + 1) ** 2 for j in range(K) if j != r),
    "perceptron": lambda s, r: max(s) - s[r],
    "exponential": lambda s, r: sum(math.exp((s[j] - s[r]) / 2) for j in range(K) if j != r),
    "squared": lambda s, r: sum((p - (j == r)) ** 2 for j, p in enumerate(softmax(s))),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_its_equation(name: str) -> None:
    torch.testing.assert_close(LOSSES[name](above_right(SCORES, Y)), by_hand(EQUATIONS[name]))


def test_cross_entropy_focal_and_hinge_are_torchs() -> None:
    nll = F.cross_entropy(SCORES, Y, reduction="none")
    torch.testing.assert_close(cross_entropy(above_right(SCORES, Y)), nll)
    torch.testing.assert_close(focal(above_right(SCORES, Y), 0.0), nll)
    torch.testing.assert_close(focal(above_right(SCORES, Y), 2.0), (1 - (-nll).exp()) ** 2 * nll)
    margin = F.multi_margin_loss(SCORES, Y, reduction="none") * K  # torch divides by the classes
    torch.testing.assert_close(LOSSES["hinge"](above_right(SCORES, Y)), margin)


@pytest.mark.parametrize(
    ("name", "value"),
    [("hinge", K - 1), ("squared_hinge", K - 1), ("perceptron", 0), ("exponential", K - 1), ("squared", 1 - 1 / K)],
)
def test_what_a_loss_is_where_all_scores_are_alike(name: str, value: float) -> None:
    assert LOSSES[name](torch.zeros(3, K)).tolist() == pytest.approx([value] * 3)


@pytest.mark.parametrize("loss", [*LOSSES.values(), partial(focal, gamma=2.0), cross_entropy])
def test_shares_are_the_mean_over_which_class_is_right(loss: Callable[[Tensor], Tensor]) -> None:
    shares = torch.rand(30, K, dtype=torch.float64).softmax(1)
    each = torch.stack([loss(above_right(SCORES, torch.full_like(Y, k))) for k in range(K)], 1)
    torch.testing.assert_close(of_shares(loss, SCORES, shares), (each * shares).sum(1))
    torch.testing.assert_close(of_shares(loss, SCORES, F.one_hot(Y, K).double()), loss(above_right(SCORES, Y)))


@pytest.mark.parametrize("name", ["cross_entropy", "focal", *LOSSES])
def test_large_scores_give_finite_gradients(name: Any) -> None:
    task = ClassificationConfig(loss=name, class_weights=(1, 2, 0.5, 1)).build(
        Classes(K), FeatureSpec("vector", ((5,),))
    )
    scores = (SCORES * (5 if name == "exponential" else 20)).float().requires_grad_()
    value = task.loss(scores, Y).value
    value.backward()
    assert value.isfinite()
    assert scores.grad is not None
    assert bool(scores.grad.isfinite().all())


def test_weights_multiply_every_loss() -> None:
    weights = torch.tensor([1, 2, 0.5, 1], dtype=torch.float64)
    for name in ("hinge", "focal"):
        plain, weighted = (
            ClassificationConfig(loss=name, class_weights=given).build(Classes(K), FeatureSpec("vector", ((5,),)))  # type: ignore[arg-type]
            for given in (None, (1, 2, 0.5, 1))
        )
        per_sample = plain.per_sample(SCORES, Y)[name]
        torch.testing.assert_close(weighted.loss(SCORES, Y).value, (per_sample * weights[Y]).mean())
        torch.testing.assert_close(weighted.per_sample(SCORES, Y)[name], per_sample)
