"""Linear models of features: least squares, softmax regression, the linear support vector machine.

N samples, F features, K classes, T values.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from lab.data.targets import Classes, RealValues
from lab.supervised.baselines.models import Model, ModelConfig, check_fitted

Array = np.ndarray[Any, Any]


class LinearModel(Model):
    """x W^T + b, with weights W (K, F) and b (K,) that scikit-learn finds."""

    weight: Tensor
    bias: Tensor

    def __init__(self, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs
        self.register_buffer("weight", torch.empty(0, num_features))
        self.register_buffer("bias", torch.empty(0))

    def forward(self, x: Tensor) -> Tensor:
        check_fitted(self.bias)
        return F.linear(x, self.weight, self.bias)

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, seed: int) -> None:
        weight, bias = self.solve(x.double().numpy(), y, seed)
        self.weight = torch.from_numpy(weight).to(self.weight)
        self.bias = torch.from_numpy(bias).to(self.bias)

    @abstractmethod
    def solve(self, x: Array, y: Tensor, seed: int) -> tuple[Array, Array]:
        """W (K, F) and b (K,) of features (N, F) float64 and the targets of `fit`."""


class LeastSquaresConfig(ModelConfig):
    """Least squares: of one-hot classes, or of values (ridge regression, Hoerl and Kennard 1970)."""

    kind: Literal["least_squares"] = "least_squares"
    targets: ClassVar = (Classes, RealValues)
    l2: NonNegativeFloat = 1.0
    """what squared weights are multiplied by and added to the sum of squared errors (scikit-learn's alpha); 0: the
    solution of smallest weights"""

    def build(self, num_features: int, num_outputs: int) -> LeastSquares:
        return LeastSquares(self, num_features, num_outputs)


class LeastSquares(LinearModel):
    """min |X W^T + b - Y|^2 + l2 |W|^2; values are in standard deviations of training."""

    def __init__(self, config: LeastSquaresConfig, num_features: int, num_outputs: int) -> None:
        super().__init__(num_features, num_outputs)
        self.config = config

    def solve(self, x: Array, y: Tensor, seed: int) -> tuple[Array, Array]:
        from sklearn.linear_model import LinearRegression, Ridge

        targets = F.one_hot(y, self.num_outputs).double() if y.dim() == 1 else y
        model = Ridge(alpha=self.config.l2) if self.config.l2 else LinearRegression()
        model.fit(x, targets.numpy())
        return np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)


class SoftmaxConfig(ModelConfig):
    """Softmax (multinomial logistic) regression."""

    kind: Literal["softmax"] = "softmax"
    outputs: ClassVar = "logits"
    C: PositiveFloat = 1.0
    """what the summed cross-entropy is multiplied by, beside half of the squared weights"""
    max_iter: PositiveInt = 200
    """steps of L-BFGS"""

    def build(self, num_features: int, num_outputs: int) -> Softmax:
        return Softmax(self, num_features, num_outputs)


class Softmax(LinearModel):
    """min C sum_n -log softmax(W x_n + b)_{y_n} + |W|^2 / 2."""

    def __init__(self, config: SoftmaxConfig, num_features: int, num_outputs: int) -> None:
        super().__init__(num_features, num_outputs)
        self.config = config

    def solve(self, x: Array, y: Tensor, seed: int) -> tuple[Array, Array]:
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=self.config.C, max_iter=self.config.max_iter).fit(x, y.numpy())
        if self.num_outputs > 2:
            return model.coef_, model.intercept_
        return np.concatenate([0 * model.coef_, model.coef_]), np.concatenate([0 * model.intercept_, model.intercept_])


class LinearSVMConfig(ModelConfig):
    """The linear support vector machine (Cortes and Vapnik 1995): a class against all others, by LIBLINEAR."""

    kind: Literal["linear_svm"] = "linear_svm"
    C: PositiveFloat = 1.0
    """what the summed losses are multiplied by, beside half of the squared weights"""
    loss: Literal["hinge", "squared_hinge"] = "squared_hinge"
    """of the margin of a class against all others"""
    max_iter: PositiveInt = 1000

    def build(self, num_features: int, num_outputs: int) -> LinearSVM:
        return LinearSVM(self, num_features, num_outputs)


class LinearSVM(LinearModel):
    """min C sum_n max(0, 1 - t_n (w x_n + b))^2 + (|w|^2 + b^2) / 2 of each class, t_n being 1 for it, else -1."""

    def __init__(self, config: LinearSVMConfig, num_features: int, num_outputs: int) -> None:
        super().__init__(num_features, num_outputs)
        self.config = config

    def solve(self, x: Array, y: Tensor, seed: int) -> tuple[Array, Array]:
        from sklearn.svm import LinearSVC

        config = self.config
        model = LinearSVC(C=config.C, loss=config.loss, dual="auto", max_iter=config.max_iter, random_state=seed)
        model.fit(x, y.numpy())
        if self.num_outputs > 2:
            return model.coef_, model.intercept_
        return np.concatenate([-model.coef_, model.coef_]), np.concatenate([-model.intercept_, model.intercept_])
