"""Ensembles: the mean of what several trained models predict (Hansen and Salamon 1990; Lakshminarayanan et al. 2017).

Members are runs on the same data: seeds, or the best of a sweep. N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lab.errors import UserError
from lab.runs.directory import Run
from lab.supervised.supervised import TaskLearner
from lab.supervised.tasks.base import Task
from lab.training.evaluation import evaluating
from lab.training.restore import restore

_MOST_NAMED = 5


class Ensemble(NamedTuple):
    """Metrics `eval/...` of each member by its run or snapshot, of all together, and of these numbers of each class."""

    members: dict[str, dict[str, float]]
    together: dict[str, float]
    table: dict[str, dict[str, float]]


def measure_ensemble(
    runs: Sequence[Path | str],
    *,
    checkpoint: str | None = None,
    split: Literal["val", "test"] = "test",
    overrides: Sequence[str] = (),
) -> Ensemble:
    """Measure several supervised runs and the mean of their predictions (of classes, of their probabilities).

    A single run's members are its snapshots (trainer.snapshots; Huang et al. 2017).

    Raises UserError for less than two members, for other kinds of runs, and for runs on other data or of other tasks.
    """
    names: list[tuple[Path | str, str]] = [(run, checkpoint or "best") for run in runs]
    for i, run in enumerate(runs):
        if Path(run).resolve() in {Path(other).resolve() for other in runs[:i]}:
            raise UserError(f"{str(run)!r} is named twice; an ensemble's members are different runs.")
    if len(runs) == 1:
        if checkpoint is not None:
            raise UserError(
                f"--checkpoint {checkpoint} is for an ensemble of several runs; the members of one are its snapshots."
            )
        names = [(runs[0], name) for name in Run.open(runs[0]).snapshots()]
    if len(names) < 2:
        raise UserError("an ensemble needs at least two runs, or one run with two snapshots (trainer.snapshots).")
    members: dict[str, dict[str, float]] = {}
    total: Tensor | None = None
    first: Task | None = None
    truth = torch.empty(0)
    for run, which in names:
        _, data, module, _ = restore(Path(run), which, overrides)
        try:
            if not isinstance(module, TaskLearner):
                raise UserError(f"{str(run)!r} is no supervised model, of which --ensemble takes the mean.")
            with evaluating(module, 0):
                judged = module.judge(data, split)
        finally:
            data.close()
        if first is None or total is None:
            first, truth, total = module.task, judged.y.cpu(), judged.predictions.cpu()
        else:
            _check_alike(str(run), str(runs[0]), module.task, first, judged.y.cpu(), truth)
            total = total + judged.predictions.cpu()
        members[str(run) if len(runs) > 1 else which] = {f"eval/{name}": value for name, value in judged.scores.items()}
    assert first is not None
    assert total is not None
    first = first.cpu()
    mean = total / len(names)
    return Ensemble(members, _scores(first, mean, truth), first.table(mean, truth))


def _check_alike(run: str, other: str, task: Task, first: Task, y: Tensor, truth: Tensor) -> None:
    if task.meaning != first.meaning:
        raise UserError(
            f"{run!r} predicts the {_told(task)}, and {other!r} the {_told(first)}; "
            f"an ensemble's members predict the same."
        )
    if y.shape != truth.shape or not torch.equal(y, truth):
        raise UserError(f"{run!r} is on other data than {other!r}; an ensemble's members are judged on the same ones.")


def _told(task: Task) -> str:
    """What a task's predictions are, in a few words."""
    kind, *names = task.meaning
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{kind} of {', '.join(names[:_MOST_NAMED])}{more}"


@torch.no_grad()
def _scores(task: Task, predictions: Tensor, y: Tensor) -> dict[str, float]:
    scores = task.scores()
    scores.update(predictions, y)
    per_sample: dict[str, Any] = task.per_sample(task.outputs_of(predictions), y)
    means = {name: float(value.double().mean()) for name, value in per_sample.items()}
    whole = {name: float(value) for name, value in scores.compute().items()}
    return {f"eval/{name}": value for name, value in {**means, **whole}.items()}
