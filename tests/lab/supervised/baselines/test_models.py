"""Each model's outputs are those of scikit-learn, whose fit it is; what it has fitted comes back from its tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lab.errors import UserError
from lab.supervised.baselines.kernel_svm import RBFSVMConfig
from lab.supervised.baselines.linear import LeastSquaresConfig, LinearSVMConfig, SoftmaxConfig
from lab.supervised.baselines.models import Model, ModelConfig, squared_distances
from lab.supervised.baselines.neighbours import NearestNeighboursConfig, best_k, nearest

F, N = 6, 240
CONFIGS: dict[str, ModelConfig] = {
    "least_squares": LeastSquaresConfig(l2=2.0),
    "least_squares-free": LeastSquaresConfig(l2=0.0),
    "softmax": SoftmaxConfig(C=0.5),
    "linear_svm": LinearSVMConfig(C=0.5),
    "linear_svm-hinge": LinearSVMConfig(C=0.5, loss="hinge", max_iter=20_000),
    "rbf_svm": RBFSVMConfig(C=2.0),
    "rbf_svm-gamma": RBFSVMConfig(gamma=0.2),
    "nearest_neighbours-l1": NearestNeighboursConfig(k=4, metric="l1"),
    "nearest_neighbours-l2": NearestNeighboursConfig(k=4),
}


def samples(num_classes: int, num: int = N, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping clouds far from the origin: features (N, F), classes (N,)."""
    generator = np.random.default_rng(seed)
    y = np.arange(num) % num_classes
    x = 50 + generator.normal(size=(num_classes, F))[y] + generator.normal(size=(num, F))
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def peer(config: ModelConfig) -> Any:
    """scikit-learn's estimator of the same settings."""
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC, LinearSVC

    if isinstance(config, LeastSquaresConfig):
        return RidgeClassifier(alpha=config.l2)
    if isinstance(config, SoftmaxConfig):
        return LogisticRegression(C=config.C, max_iter=config.max_iter)
    if isinstance(config, LinearSVMConfig):
        return LinearSVC(C=config.C, loss=config.loss, dual="auto", max_iter=config.max_iter, random_state=0)
    if isinstance(config, RBFSVMConfig):
        return SVC(C=config.C, gamma=config.gamma, break_ties=False)
    assert isinstance(config, NearestNeighboursConfig)
    return KNeighborsClassifier(config.k, p=1 if config.metric == "l1" else 2)


def fitted(config: ModelConfig, x: Tensor, y: Tensor, num_outputs: int) -> Model:
    model = config.build(x.shape[1], num_outputs)
    model.fit(x, y, seed=0)
    return model


@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_are_those_of_scikit_learn(name: str, num_classes: int) -> None:
    config = CONFIGS[name]
    x, y = samples(num_classes)
    new, _ = samples(num_classes, 200, seed=1)
    theirs = peer(config).fit(x.double().numpy(), y.numpy())
    outputs = fitted(config, x, y, num_classes)(new)
    assert outputs.shape == (200, num_classes)
    inputs = new.double().numpy()
    if config.outputs == "scores":
        scores = theirs.decision_function(inputs)
        if isinstance(config, LeastSquaresConfig):
            scores = (scores + 1) / 2  # its targets are -1 and 1
        ours = outputs.numpy() if num_classes > 2 else outputs[:, 1].numpy()
        if num_classes == 2 and isinstance(config, RBFSVMConfig):  # of one pair: a vote, and its margin beside it
            np.testing.assert_array_equal(ours > 0.5, scores > 0)
        else:
            np.testing.assert_allclose(ours, scores, atol=2e-4, rtol=1e-4)
        if num_classes > 2 and isinstance(config, RBFSVMConfig):
            theirs.break_ties = True  # as our scores do
    else:
        shares = outputs.softmax(1) if config.outputs == "logits" else outputs
        np.testing.assert_allclose(shares.numpy(), theirs.predict_proba(inputs), atol=2e-4)
    assert (outputs.argmax(1).numpy() == theirs.predict(inputs)).mean() > 0.995  # two may be alike to rounding


@pytest.mark.parametrize("num_values", [1, 2])
def test_values_are_those_of_scikit_learn(num_values: int) -> None:
    from sklearn.linear_model import LinearRegression, Ridge
    from sklearn.neighbors import KNeighborsRegressor

    x, _ = samples(4)
    y = torch.from_numpy(np.random.default_rng(2).normal(size=(N, num_values)))
    new, _ = samples(4, 100, seed=1)
    for config, theirs in (
        (LeastSquaresConfig(l2=3.0), Ridge(alpha=3.0)),
        (LeastSquaresConfig(l2=0.0), LinearRegression()),
        (NearestNeighboursConfig(k=7), KNeighborsRegressor(7)),
    ):
        theirs.fit(x.double().numpy(), y.numpy())
        want = theirs.predict(new.double().numpy()).reshape(100, num_values)
        np.testing.assert_allclose(fitted(config, x, y, num_values)(new).numpy(), want, atol=1e-3)


def test_k_is_that_of_a_grid_search_over_the_same_folds() -> None:
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.neighbors import KNeighborsClassifier

    x, y = samples(4)
    folds = torch.empty(N, dtype=torch.int64)
    for number, fold in enumerate(torch.randperm(N, generator=torch.Generator().manual_seed(3)).tensor_split(5)):
        folds[fold] = number
    search = GridSearchCV(
        KNeighborsClassifier(), {"n_neighbors": [1, 3, 5, 7, 9, 11, 15, 21, 31]}, cv=PredefinedSplit(folds.numpy())
    ).fit(x.numpy(), y.numpy())
    one_hot = torch.nn.functional.one_hot(y, 4).float()
    assert best_k(x - x.mean(0), one_hot, "l2", True, seed=3) == search.best_params_["n_neighbors"]


def test_neighbours_of_few_and_of_many_points(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    want = torch.cdist(x[:20], x).argsort(1)[:, :9]
    monkeypatch.setattr("lab.supervised.baselines.neighbours._BLOCK", 7)
    assert torch.equal(nearest(x[:20], x, 9, "l2"), want)
    lone = fitted(NearestNeighboursConfig(), torch.ones(2, 3), torch.tensor([0, 1]), 2)
    assert torch.equal(lone(torch.ones(1, 3)), torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(squared_distances(x, x).diagonal(), torch.zeros(300), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_was_fitted_comes_back_from_its_tensors(name: str) -> None:
    x, y = samples(3)
    model, again = fitted(CONFIGS[name], x, y, 3), CONFIGS[name].build(F, 3)
    with pytest.raises(UserError, match="not fitted yet"):
        again(x)
    again.load_state_dict(model.state_dict())
    assert torch.equal(model(x), again(x))
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(RuntimeError, match="size mismatch"):
        CONFIGS[name].build(F + 1, 3).load_state_dict(model.state_dict())


def test_the_digits_of_scikit_learns_example() -> None:
    """SVC(gamma=0.001) of pixels from 0 to 16, the first half for training: accuracy 0.97 on the second."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    images, classes = load_digits(return_X_y=True)
    half = len(images) // 2
    theirs = SVC(gamma=0.001, break_ties=True).fit(images[:half], classes[:half]).predict(images[half:])
    x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(classes)
    ours = fitted(RBFSVMConfig(gamma=0.001 * 16**2), x[:half], y[:half], 10)(x[half:]).argmax(1)
    np.testing.assert_array_equal(ours.numpy(), theirs)
    assert round(float((ours == y[half:]).double().mean()), 2) == 0.97


def test_more_neighbours_than_samples_are_refused() -> None:
    with pytest.raises(UserError, match=r"module\.model\.k=9 is not valid: the training split has 8 samples\."):
        NearestNeighboursConfig(k=9).build(3, 2).check(8)
