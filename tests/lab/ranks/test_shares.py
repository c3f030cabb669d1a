"""What one of several ranks has of an experiment and of a state."""

from __future__ import annotations

import pytest
import torch

from lab.config.overrides import override, resolve
from lab.errors import UserError
from lab.ranks import ranks, shares


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
