"""A sweep from its first check to its summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cluster.session.session import Session, session
from cluster.sweep import summary
from cluster.sweep.display import Display
from cluster.sweep.driver import Driver
from cluster.sweep.search import make_search
from cluster.sweep.space import parse
from cluster.sweep.sweep import Sweep
from lab import catalog
from lab.cli import INTERRUPTED
from lab.errors import UserError
from lab.experiment import Experiment
from lab.launchers import register_launcher


@register_launcher("sweep")
def resume(path: Path, overrides: Sequence[str], quiet: bool, address: str | None = None) -> int:
    """Go on with a sweep: what had not ended goes on from its checkpoint, what had failed is tried again.

    `address` is a running cluster, which need not be the one that it began on; by default a private one is started.
    Returns the exit code. Raises UserError when the sweep needs imports that the user has not allowed, or for a wrong
    override.
    """
    sweep = Sweep.open(path)
    missing = sorted(set(sweep.settings.imports) - set(catalog.allowed_imports()))
    if missing:
        options = " ".join(f"--import {name}" for name in missing)
        raise UserError(f"sweep {str(path)!r} was started with {options}; add that if you trust it.")
    check(sweep, overrides)
    _check_left(sweep, overrides)
    for entry in sweep.entries:
        if overrides or entry.status in ("running", "failed"):
            entry.status = "waiting"
        entry.attempts, entry.error = 0, ""
    with session(address) as cluster:
        return report(sweep, conduct(cluster, sweep, overrides=overrides, quiet=quiet))


def _check_left(sweep: Sweep, overrides: Sequence[str]) -> None:
    """Raise UserError when overrides are for a sweep all of whose runs have reached their budget."""
    if not overrides or not sweep.entries or any(entry.status != "completed" for entry in sweep.entries):
        return
    fixed = (*parse(sweep.settings.overrides).fixed, *overrides)
    budgets = [(sweep.experiment(entry, fixed).trainer.budget, sweep.result(entry)) for entry in sweep.entries]
    sweep.forget_experiments()
    if all(result is not None and result["budget"] >= budget for budget, result in budgets):
        raise UserError(
            f"sweep {str(sweep.path)!r} has ended: {' '.join(overrides)} changes nothing that is still to be trained. "
            f"trainer.budget above {min(budget for budget, _ in budgets):,} goes on; lab sweep begins others."
        )


def conduct(cluster: Session, sweep: Sweep, overrides: Sequence[str] = (), quiet: bool = False) -> bool:
    """Run a sweep on a cluster; returns whether it came to its end, and was not interrupted."""
    sweep.lock()
    space = parse(sweep.settings.overrides)
    search = make_search(sweep, space)
    with Display(sweep.settings.name, quiet) as display:
        cluster.on_loss = display.close
        return Driver(cluster, sweep, display, (*space.fixed, *overrides), search).run()


def report(sweep: Sweep, finished: bool) -> int:
    """Say what came out of a sweep, or how it goes on; returns the exit code."""
    if not finished:
        print(f"interrupted: every run is saved; go on with: lab resume {sweep.path}{catalog.import_options()}")
        return INTERRUPTED
    if sweep.settings.ending == "demo":
        from cluster.sweep.presentation import present  # agents, films and reports, which no other sweep needs

        return present(sweep)
    return _summarize(sweep)


def check(sweep: Sweep, overrides: Sequence[str] = ()) -> list[Experiment]:
    """Resolve one run of each recipe and grid point, so that bad input is reported before anything starts.

    Raises UserError for a wrong recipe, field, value or search.
    """
    space = parse(sweep.settings.overrides)
    points: dict[tuple[str, ...], Experiment] = {}
    for entry in make_search(sweep, space).stage_entries(0):
        point = (entry.target, *(entry.values[field] for field in space.grid))
        if point not in points:
            points[point] = sweep.experiment(entry, (*space.fixed, *overrides))
    sweep.forget_experiments()
    return list(points.values())


def _summarize(sweep: Sweep) -> int:
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 200
    ranked = summary.seed_groups(sweep, sweep.entries)
    warnings = summary.edge_warnings(ranked, parse(sweep.settings.overrides).ranges)
    summary.write(sweep, ranked, warnings)
    console.print(summary.table(ranked))
    for warning in warnings:
        console.print(warning, markup=False)
    failed = [entry for entry in sweep.entries if entry.status == "failed"]
    for entry in failed:
        console.print(f"failed: {sweep.run_path(entry)}: {entry.error}", markup=False)
    console.print(f"next: lab compare {sweep.path}", markup=False)
    return 1 if failed else 0
