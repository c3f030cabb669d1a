"""Preprocessing is scikit-learn's, by statistics of the training split alone; it is saved, and goes with the net."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab.config.overrides import resolve
from lab.errors import UserError
from lab.supervised.preprocessing import Preprocessing, PreprocessingConfig
from lab.training.restore import restore
from lab.training.train import train

X = np.random.default_rng(0).normal(size=(200, 6)) @ np.random.default_rng(1).normal(size=(6, 6)) + 5
X[:, 3] = 0.1
NEW = torch.tensor(X[:7]) + 1


def fitted(x: Any = X, **options: Any) -> Preprocessing:
    net = Preprocessing(PreprocessingConfig(**options), x.shape[1:]).double()
    net.fit(torch.tensor(part) for part in np.array_split(x, 2))
    return net


@pytest.mark.slow
@pytest.mark.parametrize("name", ["centring", "z_score", "min_max"])
def test_scaling_is_scikit_learns(name: Any) -> None:
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    scaler = {"centring": StandardScaler(with_std=False), "z_score": StandardScaler(), "min_max": MinMaxScaler()}[name]
    expected = scaler.fit(X).transform(NEW.numpy())
    torch.testing.assert_close(fitted(name=name)(NEW), torch.tensor(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("components", [None, 3])
@pytest.mark.parametrize("name", ["pca", "whitening"])
def test_components_are_scikit_learns(name: Any, components: int | None) -> None:
    from sklearn.decomposition import PCA

    x = np.delete(X, 3, 1)
    net = fitted(x, name=name, components=components, eps=1e-12)
    pca = PCA(components, whiten=name == "whitening").fit(x)
    expected = torch.tensor(pca.transform(x[:7] + 1))
    expected *= (1 - 1 / len(x)) ** -0.5 if name == "whitening" else 1  # scikit-learn divides by N - 1
    actual = net(torch.tensor(x[:7] + 1))
    assert actual.shape == (7, components or 5)
    torch.testing.assert_close(actual.abs(), expected.abs(), rtol=1e-4, atol=1e-4)  # an axis has two directions


def test_zca_whitens_in_the_inputs_own_axes() -> None:
    x = np.delete(X, 3, 1)
    net = fitted(x.reshape(200, 5, 1, 1), name="zca", eps=1e-12)
    white = net(torch.tensor(x.reshape(200, 5, 1, 1)))
    assert white.shape == (200, 5, 1, 1)
    flat = white.flatten(1)
    torch.testing.assert_close(flat.T @ flat / 200, torch.eye(5, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net.matrix, net.matrix.T, rtol=1e-5, atol=1e-6)


def test_channels_and_powers_of_ten() -> None:
    x = np.random.default_rng(2).normal(size=(50, 3, 4, 4)) * np.array([1, 10, 100])[:, None, None] + 7
    z = fitted(x, name="channel_z_score")(torch.tensor(x))
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3), unbiased=False), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)
    assert fitted(x, name="channel_z_score").shift.shape == (3, 1, 1)
    rows = np.array([[1.0, 0.5, -99.0, 0.0], [0.3, -0.2, 10.0, 0.0]])
    expected = rows / [10, 1, 100, 1]
    torch.testing.assert_close(fitted(rows, name="decimal")(torch.tensor(rows)), torch.tensor(expected))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="components=7 is not valid: inputs have 6 numbers"):
        fitted(name="pca", components=7)
    with pytest.raises(UserError, match="at most 4,096 numbers; these have 6,912"):
        Preprocessing(PreprocessingConfig(name="zca"), (3, 48, 48))
    with pytest.raises(UserError, match="components are of name=pca and whitening, not of z_score"):
        resolve("classifier/digits-cnn", ["module.preprocessing={name: z_score, components: 3}"])


@pytest.mark.slow
def test_it_is_saved_resumed_exported_and_applied_by_predictions(tmp_path: Path, lab: Any) -> None:
    words = ["module.preprocessing={name: whitening, components: 20}", "module.backbone.name=mlp"]
    words += ["module.optimizer.schedule.name=constant"]
    words += ["trainer.num_threads=1", "tracking.mode=disabled", "trainer.eval_period=2560", "trainer.device=cpu"]
    whole = train(resolve("classifier/digits-cnn", [*words, "trainer.budget=5120"]), run_dir=tmp_path / "whole")
    part = train(resolve("classifier/digits-cnn", [*words, "trainer.budget=2560"]), run_dir=tmp_path / "part")
    _, data, module, _ = restore(part.run.path, "last")
    matrix = module.net.preprocessing.matrix
    assert matrix.shape == (64, 20)
    fresh = Preprocessing(module.config.preprocessing, (1, 8, 8))
    fresh.fit(batch.x for batch in data.batches("train"))
    assert torch.equal(fresh.matrix, matrix), "of the training split alone"
    longer = train(resolve("classifier/digits-cnn", [*words, "trainer.budget=5120"]), resume=part.run)
    states = [torch.load(run.last, weights_only=True)["state_dict"] for run in (whole.run, longer.run)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    x = next(data.batches("test")).x[:5]
    np.savez(tmp_path / "x.npz", x=(x[:, 0] * 255).round().to(torch.uint8).numpy())
    told = json.loads(lab("predict", longer.run.path, tmp_path / "x.npz", "--json", "--checkpoint", "last").out)
    _, _, module, _ = restore(longer.run.path, "last")
    with torch.no_grad():
        p = module.net(x).softmax(1)
    assert [row["probability"] for row in told] == pytest.approx(p.amax(1).tolist(), abs=1e-4)
    assert lab("export", longer.run.path).code == 0
