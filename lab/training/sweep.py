"""sweep(recipes, overrides): many runs side by side, as `lab sweep` does it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lab.launchers import launch
from lab.runs.directory import Run


def sweep(
    recipes: str | Sequence[str],
    *overrides: str,
    seeds: int = 1,
    search: Literal["grid", "random", "asha", "pbt", "optuna"] | None = None,
    num_samples: int | None = None,
    cpus_per_run: float = 1.0,
    gpus_per_run: float | None = None,
    out: Path | str | None = None,
    name: str | None = None,
    address: str | None = None,
    progress: bool = False,
    **settings: Any,
) -> list[Run]:
    """Train many recipes, seeds and values on a Ray cluster; returns the runs, those that failed included.

        runs = lab.sweep("dqn/cartpole", "module.gamma=0.97,0.99", seeds=5)

    Args:
        recipes: one or several, as for `recipe`.
        overrides: `field=value`; `field=a,b` tries both, `field=log(1e-5,1e-2)`, `uniform(0,1)` and `int(1,8)`
            are ranges.
        seeds: seeds 0 to N-1 of each point.
        search: by default random where there are ranges, else grid.
        num_samples: draws from the ranges; by default 8.
        gpus_per_run: a part of one, or whole ones; by default 1 if there are any.
        out: the sweep directory; by default a new one in LAB_RUNS or ./runs.
        name: the sweep's name and W&B group; by default the directory's name.
        address: a running Ray cluster (host:port); by default the one that this process is connected to, or else a
            private one on this machine.
        progress: show the runs in the terminal.
        settings: more of the command's options: stages, generations, search_seed, retries, hang_seconds.

    Raises:
        UserError: for bad input, before anything is written.
        Failure: when it was interrupted; every run is saved, and `lab resume` goes on.
    """
    words = [recipes] if isinstance(recipes, str) else list(recipes)
    paths = launch(
        "new_sweep",
        [*words, *overrides],
        seeds=seeds,
        search=search,
        num_samples=num_samples,
        cpus_per_run=cpus_per_run,
        gpus_per_run=gpus_per_run,
        out=None if out is None else Path(out),
        name=name,
        address=address,
        quiet=not progress,
        **settings,
    )
    return [Run.open(path) for path in paths]
