"""A new sweep, and the demo: a sweep over one recipe of each family that ends in a report instead of a summary."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.session.session import Resources, current_session, session
from cluster.sweep.conduct import check, conduct, report
from cluster.sweep.demand import slots_of
from cluster.sweep.space import parse
from cluster.sweep.sweep import Sweep, SweepConfig
from lab import catalog
from lab.config import serialization
from lab.errors import Failure, UserError
from lab.experiment import Experiment
from lab.launchers import register_launcher
from lab.runs.directory import runs_root

DEMO_RECIPES = (  # the longest first, so that the short ones fill the gaps at the end
    "pixelcnn/digits",
    "vae/digits",
    "gan/digits",
    "dqn/cartpole",
    "pg/cartpole",
    "classifier/digits-lstm",
    "classifier/digits-cnn",
)
_POSITIVE = ("seeds", "num_samples", "stages", "generations", "cpus_per_run", "hang_seconds")
_NOT_NEGATIVE = ("retries", "search_seed", "gpus_per_run")


def start(
    words: Sequence[str],
    *,
    out: Path | None = None,
    name: str | None = None,
    address: str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> tuple[Sweep, bool]:
    """Run a new sweep; returns it, and whether it came to its end.

    Args:
        words: recipes, and overrides (those with "=") with their grids and ranges.
        out: the sweep directory; by default a new one in LAB_RUNS or ./runs.
        name: the sweep's name and W&B group; by default the directory's name.
        address: a running cluster (host:port); by default the one that this process is connected to, or a private one.
        settings: fields of SweepConfig; one that is None has its default, which depends on the ranges, or for
            gpus_per_run on the cluster: a GPU where it has any.

    Raises:
        UserError: for bad input, before anything is written.
    """
    gpus = settings.get("gpus_per_run")
    path, config, experiments = plan(words, out=out, name=name, **settings)
    with session(address) if address else current_session() as cluster:
        if gpus is None and cluster.possible(Resources(0, 1)):
            config = config.model_copy(update={"gpus_per_run": 1.0})
        need = Resources(config.cpus_per_run, config.gpus_per_run)
        slots = cluster.require(need, "each run")
        for experiment in experiments:
            slots_of(experiment, need, slots, cluster)  # raises when the cluster is too small for it
        sweep = Sweep.create(path, config)
        return sweep, conduct(cluster, sweep, quiet=quiet)


def plan(
    words: Sequence[str], *, out: Path | None = None, name: str | None = None, **settings: Any
) -> tuple[Path, SweepConfig, list[Experiment]]:
    """What `start` would do with these: the directory, the settings, an experiment for each recipe and grid point.

    Raises UserError for bad input.
    """
    targets = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if not targets:
        raise UserError("lab sweep needs a recipe, for example: lab sweep dqn/cartpole --seeds 5.")
    space = parse(overrides)
    _check_numbers(settings)
    search: Any = settings.pop("search", None) or ("random" if space.ranges else "grid")
    num_samples = settings.pop("num_samples", None) or (8 if space.ranges or search == "optuna" else 1)
    gpus = settings.pop("gpus_per_run", None) or 0.0
    path = out or _fresh_path(targets)
    config = SweepConfig(
        name=name or path.name,
        targets=tuple(targets),
        overrides=tuple(overrides),
        search=search,
        num_samples=num_samples,
        gpus_per_run=gpus,
        imports=catalog.allowed_imports(),
        **settings,
    )
    Sweep.check_free(path)
    experiments = check(Sweep(path, config, []))
    for experiment in experiments:
        _check_importable(experiment)
    return path, config, experiments


@register_launcher("new_sweep")
def run_directories(words: Sequence[str], **options: Any) -> list[Path]:
    """Run a new sweep; returns the directories of its runs. Takes what `start` takes.

    Raises Failure when it was interrupted, or runs failed before they had a directory.
    """
    sweep, finished = start(words, **options)
    if not finished:
        raise Failure(
            f"the sweep was interrupted, every run saved; go on with: lab resume {sweep.path}{catalog.import_options()}"
        )
    lost = [entry for entry in sweep.entries if sweep.result(entry) is None]
    if lost:
        raise Failure(
            f"{len(lost)} of {len(sweep.entries)} runs of {sweep.path} failed before they began, "
            f"{lost[0].folder} first: {lost[0].error}"
        )
    return [sweep.run_path(entry) for entry in sweep.entries]


def start_demo(out: Path, quiet: bool = False) -> int:
    """Train every family side by side on a private cluster, then measure, compare and show; returns the exit code.

    Raises UserError when `out` holds something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        page = out / "report" / "index.html"
        if page.is_file():
            raise UserError(f"{str(out)!r} holds a demo already: open {page}, or give another folder with --out.")
        if (out / "sweep.yaml").is_file():
            raise UserError(f"{str(out)!r} holds a demo that was interrupted; go on with: lab resume {out}")
        raise UserError(f"{str(out)!r} exists already; give another folder with --out.")
    config = SweepConfig(name=f"demo-{out.resolve().name}", targets=DEMO_RECIPES, ending="demo")
    with session() as cluster:
        sweep = Sweep.create(out, config)
        return report(sweep, conduct(cluster, sweep, quiet=quiet))


def _check_importable(experiment: Experiment) -> None:
    """Raise UserError where an experiment uses what only this process can know, and its workers cannot import."""
    registries = [entry for entry in catalog.scan().registries.values() if entry.module in sys.modules]
    names = {name for entry in registries for name in getattr(sys.modules[entry.module], entry.attribute).of_script()}
    values = serialization.flatten(serialization.dump(experiment)).values()
    names = {value for value in values if isinstance(value, str) and value in names}
    names |= {config.kind for config in (experiment.data, experiment.module) if type(config).__module__ == "__main__"}
    if names:
        raise UserError(
            f"{sorted(names)[0]!r} is registered by this script itself, which the workers of a sweep do not import; "
            f"put it into a module of its own, and name that with --import (in Python: lab.catalog.allow_import)."
        )


def _check_numbers(settings: dict[str, Any]) -> None:
    for field in _POSITIVE:
        value = settings.get(field)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{field.replace('_', '-')} {value} is not valid; it must be above 0.")
    for field in _NOT_NEGATIVE:
        value = settings.get(field)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"--{field.replace('_', '-')} {value} is not valid; it must be 0 or more.")
    gpus = settings.get("gpus_per_run") or 0
    if gpus > 1 and gpus % 1:
        raise UserError(f"--gpus-per-run {gpus} is not valid; a run takes a part of one GPU, or whole ones.")


def _fresh_path(targets: Sequence[str]) -> Path:
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", targets[0].removesuffix(".yaml")).strip("-")
    stem += f"-and-{len(targets) - 1}-more" if len(targets) > 1 else ""
    return runs_root() / f"sweep-{stem}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
