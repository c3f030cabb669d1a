"""What one of several ranks has of an experiment and of a state."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lab import catalog
from lab.config.overrides import override, resolve
from lab.errors import UserError
from lab.experiment import Config, Shared
from lab.ranks import ranks, shares


def test_the_fields_that_workers_divide() -> None:
    """Each is marked where it stands; what a worker holds of it is what the mark says."""
    catalog.import_registered(catalog.KIND)
    waiting, marked = [Config], set[tuple[str, str, str]]()
    while waiting:
        config = waiting.pop()
        waiting += config.__subclasses__()
        own = set(vars(config).get("__annotations__", ())) if config.__module__.startswith(catalog.PACKAGES) else set()
        marked |= {
            (config.__name__, name, mark.parts)
            for name, field in config.model_fields.items()
            for mark in field.metadata
            if isinstance(mark, Shared) and name in own
        }
    assert marked == {
        ("CaptionData", "batch_size", "equal"),
        ("CodeData", "batch_size", "equal"),
        ("DQNConfig", "batch_size", "equal"),
        ("TableData", "batch_size", "equal"),
        ("DemonstrationData", "batch_size", "equal"),
        ("EnvData", "num_envs", "equal"),
        ("ImageData", "batch_size", "equal"),
        ("QNetworkConfig", "batch_size", "equal"),
        ("PPOConfig", "minibatch_size", "equal"),
        ("RecurrentQConfig", "batch_size", "equal"),
        ("RemoteCollectorConfig", "num", "equal"),
        ("ReplayConfig", "capacity", "rounded"),
        ("ReplayData", "learning_starts", "rounded"),
        ("SequenceData", "batch_size", "equal"),
        ("TextData", "batch_size", "equal"),
        ("TreeData", "batch_size", "equal"),
    }


def test_shares_within_parts_of_an_experiment() -> None:
    overrides = ["data.collector.kind=remote", "data.collector.num=4", "data.num_envs=8", "data.replay.capacity=101"]
    experiment = resolve("dqn/cartpole", [*overrides, "data.learning_starts=7"])
    data: Any = shares.share(experiment, 2).data
    assert (data.collector.num, data.num_envs, data.replay.capacity, data.learning_starts) == (2, 4, 51, 4)
    with pytest.raises(UserError, match=r"data\.collector\.num=4 cannot be divided equally among 8 workers"):
        shares.share(experiment, 8)


def test_shares_are_equal_or_refused() -> None:
    experiment = resolve("dqn/cartpole", ["data.num_envs=4", "data.learning_starts=200", "trainer.num_workers=2"])
    share = shares.share(experiment, 2)
    assert (share.data.num_envs, share.data.learning_starts) == (2, 100)  # type: ignore[attr-defined]
    assert share.module.batch_size * 2 == experiment.module.batch_size  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"data\.num_envs=4 cannot be divided equally among 3 workers"):
        shares.share(experiment, 3)
    with pytest.raises(UserError, match="min_workers=3 is more than num_workers=2"):
        override(experiment, ["trainer.min_workers=3"])


def test_states_of_other_ranks_are_joined_and_divided_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks' states on three: tensors along their dimension, the rest as it is fresh."""
    states = [
        {"stream": torch.tensor([[0, 1, 2]]), "queue": torch.zeros(2), "owed": 1.0},
        {"stream": torch.tensor([[3, 4, 5]]), "owed": 2.0},
    ]
    dims, fresh = {"stream": 1, "queue": 0, "owed": None}, {"stream": None, "queue": "new", "owed": 0.0}
    monkeypatch.setattr(ranks, "num_ranks", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        entries = shares.regrouped(states, dims, fresh)
        assert entries["stream"].tolist() == [[2 * rank, 2 * rank + 1]]
        assert (entries["queue"], entries["owed"]) == ("new", 0.0)
