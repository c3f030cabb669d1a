"""What `train` and `resume` say when a run is over."""

from __future__ import annotations

from rich.console import Console

from lab import catalog
from lab.training.train import Result


def report(result: Result) -> None:
    """Print how the run ended, where it is, and what to type next."""
    console = Console(highlight=False, soft_wrap=True)
    path, best = result.run.path, result.best
    if best is not None:
        console.print(f"best {best['metric']}: {best['value']:.4g}")
    if reason := result.run.result().get("reason"):
        console.print(reason)
    console.print(f"{result.status}: {path}")
    if result.status == "interrupted":
        console.print(f"go on with: lab resume {path}{catalog.import_options()}")
    else:
        console.print(f"next: lab evaluate {path}{catalog.import_options()}")
