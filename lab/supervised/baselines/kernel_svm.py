"""The support vector machine with a Gaussian kernel (Boser et al. 1992; Cortes and Vapnik 1995), by LIBSVM.

B batch, N samples, S support vectors, F features, K classes, P = K (K - 1) / 2 pairs of classes.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from pydantic import PositiveFloat
from torch import Tensor

from lab.errors import UserError
from lab.supervised.baselines.models import Model, ModelConfig, check_fitted, squared_distances

_MOST_NUMBERS = 2**29
"""of what pairs of classes make of support vectors"""
_CACHE_MEGABYTES = 1_000


class RBFSVMConfig(ModelConfig):
    """The support vector machine with the kernel exp(-gamma |x - y|^2): each class against each other one."""

    kind: Literal["rbf_svm"] = "rbf_svm"
    C: PositiveFloat = 1.0
    """what the summed hinge losses are multiplied by, beside half of the squared norm"""
    gamma: Literal["scale"] | PositiveFloat = "scale"
    """scale: 1 / (F times the variance of all features)"""

    def build(self, num_features: int, num_outputs: int) -> RBFSVM:
        return RBFSVM(self, num_features, num_outputs)


class RBFSVM(Model):
    """How many of its pairs a class wins, and, below 1/3, by how much: scikit-learn's decision function (B, K)."""

    centre: Tensor  # (F,) of the support vectors, which lie around it
    points: Tensor  # (S, F)
    coefficients: Tensor  # (S, P): 0 where a support vector is of neither class
    intercept: Tensor  # (P,)
    gamma: Tensor
    signs: Tensor  # (P, K): 1 for the first class of a pair, -1 for the second

    def __init__(self, config: RBFSVMConfig, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.config = config
        self.pairs = list(combinations(range(num_outputs), 2))
        self.register_buffer("centre", torch.zeros(num_features))
        self.register_buffer("points", torch.empty(0, num_features))
        self.register_buffer("coefficients", torch.empty(0, len(self.pairs)))
        self.register_buffer("intercept", torch.zeros(len(self.pairs)))
        self.register_buffer("gamma", torch.ones(()))
        signs = torch.zeros(len(self.pairs), num_outputs)
        for row, (i, j) in enumerate(self.pairs):
            signs[row, i], signs[row, j] = 1, -1
        self.register_buffer("signs", signs, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        check_fitted(self.points)
        kernel = (-self.gamma * squared_distances(x - self.centre, self.points)).exp()
        margins = kernel @ self.coefficients + self.intercept  # (B, P), above 0 where the first of a pair wins
        won = (margins >= 0).to(x.dtype)
        votes = won @ self.signs.clamp(min=0) + (1 - won) @ (-self.signs).clamp(min=0)
        total = margins @ self.signs
        return votes + total / (3 * (total.abs() + 1))

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, seed: int) -> None:
        from sklearn.svm import SVC

        gamma = self.config.gamma
        if gamma == "scale":
            variance = float(x.double().var(correction=0))
            gamma = 1 / (x.shape[1] * variance) if variance else 1.0
        model = SVC(C=self.config.C, gamma=gamma, cache_size=_CACHE_MEGABYTES)
        model.fit(x.double().numpy(), y.numpy())
        coefficients, intercept = self._of_pairs(model)
        points = torch.from_numpy(model.support_vectors_)
        self.centre = points.mean(0).to(self.centre)
        self.points = (points - points.mean(0)).to(self.points)
        self.coefficients = torch.from_numpy(coefficients).to(self.coefficients)
        self.intercept = torch.from_numpy(intercept).to(self.intercept)
        self.gamma = torch.tensor(gamma).to(self.gamma)

    def _of_pairs(self, model: Any) -> tuple[Any, Any]:
        """Coefficients (S, P) and intercepts (P,) of LIBSVM's, which hold the K - 1 of each support vector alone."""
        dual, counts = model.dual_coef_, model.n_support_
        if dual.shape[1] * len(self.pairs) > _MOST_NUMBERS:
            raise UserError(
                f"module.model.kind='rbf_svm' has {dual.shape[1]:,} support vectors of {len(self.pairs):,} pairs of "
                f"classes, which is too much to hold; fewer samples (data.num_train) make less, or kind=linear_svm."
            )
        if len(self.pairs) == 1:  # of which scikit-learn turns the sign
            return -dual.T, -model.intercept_
        ends = np.cumsum(counts)
        coefficients = np.zeros((dual.shape[1], len(self.pairs)))
        for pair, (i, j) in enumerate(self.pairs):
            of_first, of_second = (slice(ends[c] - counts[c], ends[c]) for c in (i, j))
            coefficients[of_first, pair] = dual[j - 1, of_first]
            coefficients[of_second, pair] = dual[i, of_second]
        return coefficients, model.intercept_
