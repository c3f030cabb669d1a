"""A Learner and its data train under a Lightning Trainer that knows nothing of the lab."""

from __future__ import annotations

import warnings
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

import lab

RECIPES = {
    "autoencoder/digits-layerwise": [],
    "classifier/digits-cnn": [],
    "classifier/digits-lstm": [],
    "dqn/cartpole": ["data.learning_starts=64", "data.rounds=4"],
    "gan/digits": [],
    "helmholtz/digits": [],
    "hierarchical-vae/digits": [],
    "impala/cartpole": ["data.rounds=10"],
    "lm/reference-gru": ["module.backbone.hidden=8", "data.batch_size=8"],
    "pg/cartpole": ["data.rounds=1", "data.num_envs=2"],
    "pixelcnn/digits": ["module.backbone.channels=8", "data.batches_per_step=2"],
    "ppo/cartpole": ["data.rounds=1"],
    "q-learning/taxi": ["data.rounds=1", "data.num_steps=50"],
    "recurrent-q/cartpole-positions": ["data.learning_starts=128", "data.rounds=2", "data.num_steps=40"],
    "vae/digits": [],
    "vq-vae/digits": [],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_learner_trains_under_a_plain_trainer(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    experiment = lab.recipe(name, *RECIPES[name])
    data = experiment.data.build(seed=0)
    module = experiment.module.build(data.spec)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    progress: list[float] = []
    set_progress = module.set_progress
    module.set_progress = lambda share: (progress.append(share), set_progress(share))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_steps=3,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, datamodule=data)
    data.close()
    assert trainer.global_step == 3
    assert progress == [0, pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert module.counters[module.counter] > 0
    assert module.counters["updates"] > 0
    changed = [key for key, value in module.state_dict().items() if not torch.equal(value, before[key])]
    assert changed
