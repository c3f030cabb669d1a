"""A trained run for evaluation, play or sampling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from lab.config import serialization
from lab.config.overrides import override
from lab.data.module import LabDataModule
from lab.errors import UserError, shortened
from lab.experiment import Experiment
from lab.ranks import ranks
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.devices import resolve_device
from lab.training.evaluation import evaluating
from lab.training.learner import Learner
from lab.training.saving import load_weights

MOST_EPISODES = 1_000_000
"""that one command plays"""


def restore(
    run: Run | Path | str, which: str = "best", overrides: Sequence[str] = ()
) -> tuple[Experiment, LabDataModule, Learner[Any], dict[str, Any]]:
    """A trained run for evaluation, play or sampling: its experiment, data, module with weights, and checkpoint.

    Where the run averages its weights (trainer.average), they are the averages.

    Args:
        run: a run, or its directory.
        which: the checkpoint, best, last or one of the run's snapshots.
        overrides: fields of the experiment that are to be others now, such as `trainer.device=cpu`.

    Raises UserError when there is no such run, or no checkpoint in it that fits.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    content = checkpoint.load(run.checkpoint(which))
    with run.explaining_imports():
        _check_kinds(run, which, content)
        experiment = override(serialization.validate(content["experiment"]), overrides)
        device = resolve_device(experiment.trainer.device)
        data = experiment.data.build(experiment.seed)
        module = experiment.module.build(data.spec)
    load_weights(module, content)
    module.to(device)
    data.to(device)
    module.eval()
    if "train" in content and experiment.trainer.average is not None:
        module.set_average(experiment.trainer.average)
        module.take_averages(content["train"])
        with ranks.alone(), torch.no_grad():
            module.renew_statistics(data)
    return experiment, data, module, content


def _check_kinds(run: Run, which: str, content: dict[str, Any]) -> None:
    """Raise UserError when a checkpoint is another run's, which trained something else."""
    own, given = serialization.dump(run.experiment()), content["experiment"]
    for part in ("module", "data"):
        kinds = [tree[part].get("kind") for tree in (given, own)]
        if kinds[0] != kinds[1]:
            raise UserError(
                f"checkpoint {str(run.checkpoint(which))!r} does not fit: it is of {given['name']}, with {part}.kind="
                f"{kinds[0]!r}, the run of {own['name']}, with {kinds[1]!r}."
            )


def evaluate(
    run: Run | Path | str,
    *,
    checkpoint: str = "best",
    split: Literal["val", "test"] = "test",
    episodes: int = 100,
    seed: int = 1234,
    overrides: Sequence[str] = (),
) -> dict[str, float]:
    """Measure a trained run: `eval/...` metrics of a split, or of greedy episodes of an agent.

    Args:
        run: a run, or its directory.
        seed: of the episodes, or of the noise.
        overrides: fields of the experiment that are to be others now, such as `trainer.device=cpu`.

    Raises UserError when there is no such run, or no checkpoint in it.
    """
    return measure(run, checkpoint=checkpoint, split=split, episodes=episodes, seed=seed, overrides=overrides).metrics


class Measured(NamedTuple):
    """Metrics, and numbers by class and name where the module tells some."""

    metrics: dict[str, float]
    table: dict[str, dict[str, float]]


def measure(
    run: Run | Path | str,
    *,
    checkpoint: str,
    split: Literal["val", "test"],
    episodes: int,
    seed: int,
    overrides: Sequence[str],
) -> Measured:
    """What `evaluate` gives, with the table of each class."""
    if not 1 <= episodes <= MOST_EPISODES:
        raise UserError(f"episodes={shortened(episodes)} is not a number of episodes; give 1 to {MOST_EPISODES:,}.")
    _, data, module, _ = restore(run, checkpoint, overrides)
    try:
        with evaluating(module, seed):
            metrics = module.evaluate(data, split, episodes=episodes, seed=seed)
            return Measured(metrics, module.table(data, split))
    finally:
        data.close()
