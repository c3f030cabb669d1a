"""What a run takes of a cluster in all: its worker, and the processes that it starts by itself."""

from __future__ import annotations

import math

from cluster.collect.collectors import RemoteCollectorConfig
from cluster.session.session import Resources, Session
from lab.errors import UserError
from lab.experiment import Experiment


def demand(experiment: Experiment, worker: Resources, num_workers: int) -> Resources:
    """CPUs and GPUs of a run with so many workers, of which each takes `worker` and starts what the data asks for."""
    beside = _collectors(experiment) + getattr(experiment.data, "num_env_runners", 0)
    if num_workers > 1:
        worker = Resources(experiment.trainer.num_threads or 1, 1 if worker.gpus else 0)
    return Resources(num_workers * worker.cpus + beside, num_workers * worker.gpus)


def slots_of(experiment: Experiment, worker: Resources, slots: int, cluster: Session) -> int:
    """How many slots a run takes of the `slots` that a cluster has, where a slot has room for one `worker`.

    Raises UserError when there are not enough of them.
    """
    trainer = experiment.trainer
    least = demand(experiment, worker, trainer.min_workers or trainer.num_workers)
    if _parts(least, worker) > slots:
        advice = " (data.collector.num_cpus=0 sets none aside for collectors)" if _collectors(experiment) else ""
        raise UserError(f"a run of {experiment.name} needs {least} in all; the cluster has {cluster}{advice}.")
    return min(_parts(demand(experiment, worker, trainer.num_workers), worker), slots)


def _collectors(experiment: Experiment) -> float:
    collector = getattr(experiment.data, "collector", None)
    return collector.num * collector.num_cpus if isinstance(collector, RemoteCollectorConfig) else 0.0


def _parts(whole: Resources, part: Resources) -> int:
    return max(math.ceil(amount / size - 1e-9) for amount, size in zip(whole, part, strict=True) if size)
