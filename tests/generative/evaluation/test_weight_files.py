import numpy as np
import pytest
import torch
from torch import nn

from generative.evaluation.weight_files import load_weights, save_weights, weights_hash


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


def test_weights_and_metadata_come_back(tmp_path):
    net, other = nn.Linear(3, 2), nn.Linear(3, 2)
    save_weights(tmp_path / "a.npz", net, {"accuracy": 0.5})
    metadata = load_weights(tmp_path / "a.npz", other)
    assert metadata == {"accuracy": 0.5, "weights": weights_hash(net.state_dict())}
    assert torch.equal(net.weight, other.weight)
    assert torch.equal(net.bias, other.bias)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_loading_runs_no_code(tmp_path):
    bomb = np.empty(1, dtype=object)
    bomb[0] = Bomb(tmp_path / "exploded")
    for name, arrays in {"weight": {"weight": bomb}, "metadata": {"metadata": bomb}}.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(ValueError, match="damaged or holds no weights"):
            load_weights(tmp_path / f"{name}.npz", nn.Linear(3, 2))
    assert not (tmp_path / "exploded").exists()
    np.load(tmp_path / "weight.npz", allow_pickle=True)["weight"]
    assert (tmp_path / "exploded").exists()  # the bomb was a real one


@pytest.mark.parametrize("other", [nn.Linear(3, 3), nn.Linear(3, 2, bias=False), nn.Sequential(nn.Linear(3, 2))])
def test_the_weights_of_another_network_are_refused(tmp_path, other):
    save_weights(tmp_path / "a.npz", nn.Linear(3, 2), {})
    with pytest.raises(ValueError, match="weights of another network"):
        load_weights(tmp_path / "a.npz", other)


def test_changed_weights_are_refused_and_nothing_is_loaded(tmp_path):
    net, path = nn.Linear(3, 2), tmp_path / "a.npz"
    save_weights(path, net, {})
    with np.load(path) as file:
        arrays = dict(file)
    arrays["bias"] = arrays["bias"] + 1
    np.savez(path, **arrays)
    other = nn.Linear(3, 2)
    before = other.weight.detach().clone()
    with pytest.raises(ValueError, match="the hash of its weights"):
        load_weights(path, other)
    assert torch.equal(before, other.weight)


def test_cut_files_and_absent_ones(tmp_path):
    path = tmp_path / "a.npz"
    save_weights(path, nn.Linear(3, 2), {})
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="damaged"):
        load_weights(path, nn.Linear(3, 2))
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "b.npz", nn.Linear(3, 2))
