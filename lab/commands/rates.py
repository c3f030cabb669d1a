"""lab rates: which learning rates a recipe stands, by a range test.

The rate grows from update to update until the loss diverges; each updater in turn.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from lab.cli import add_override_arguments, finite, path_argument
from lab.errors import UserError

if TYPE_CHECKING:
    from lab.diagnostics.rates import Curve

EXAMPLE = "lab rates classifier/digits-cnn --out rates.png"
ORDER = 46
_ROWS, _WIDTH = 20, 40
"""lines of a curve in a terminal, and the characters of its longest bar"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_override_arguments(
        parser, "a recipe (lab list), package.module:recipe, or an experiment.yaml", completes=["recipes"]
    )
    parser.add_argument("--low", type=finite, default=1e-7, help="the first rate (default: 1e-7)")
    parser.add_argument("--high", type=finite, default=10.0, help="the last rate (default: 10)")
    parser.add_argument("--updates", type=int, default=200, help="from the first to the last (default: 200)")
    parser.add_argument("--json", action="store_true", help="print JSON, with all losses")
    parser.add_argument("--out", type=path_argument, metavar="FILE", help="also write the curves as a .png")


def run(arguments: argparse.Namespace) -> int:
    from lab.config.overrides import resolve

    experiment = resolve(arguments.target, arguments.overrides)
    out = arguments.out
    if out is not None and (out.suffix.lower() != ".png" or out.is_dir() or not out.parent.is_dir()):
        raise UserError(f"{str(out)!r} cannot be written: it needs the ending .png, and a folder that is there.")

    from lab.diagnostics.rates import plot, range_test
    from lab.runs.files import disk_failure
    from lab.training.progress import showing_work

    with showing_work():
        curves = range_test(experiment, arguments.low, arguments.high, arguments.updates)
    drawn = {name: curve for name, curve in curves.items() if curve is not None}
    if out is not None and drawn:
        try:
            plot(drawn, out)
        except OSError as error:
            raise disk_failure(out, error) from error
    if arguments.json:
        plain = {name: None if curve is None else _plain(curve) for name, curve in curves.items()}
        print(json.dumps({"recipe": experiment.name, "updaters": plain}, indent=2))
        return 0
    for name, curve in curves.items():
        print(*(_lines(name, curve) if curve is not None else [f"{name} makes no updates at first"]), sep="\n")
    return 0


def _plain(curve: Curve) -> dict[str, Any]:
    columns = {key: getattr(curve, key).tolist() for key in ("rates", "losses", "smoothed")}
    suggestion = None if curve.suggestion is None else curve.suggestion._asdict()
    return {"configured": curve.configured, "suggestion": suggestion, "diverged": curve.diverged, **columns}


def _lines(name: str, curve: Curve) -> list[str]:
    """The smoothed loss over the rate as bars, and what follows from it."""
    num = len(curve.rates)
    places = sorted({round(i * (num - 1) / (_ROWS - 1)) for i in range(_ROWS)})
    low, high = curve.smoothed.min(), curve.smoothed[: num // 2 + 1].max()
    lines = [f"{name}: {num} updates, {'until the loss diverged' if curve.diverged else 'the loss did not diverge'}"]
    for at in places:
        length = round(_WIDTH * min(1.0, float((curve.smoothed[at] - low) / ((high - low) or 1.0))))
        lines.append(f"  {curve.rates[at]:9.2g}  {curve.smoothed[at]:11.5g}  {'#' * length}")
    if curve.suggestion is None:
        return [*lines, f"  the loss falls at none of these rates; {name} has {curve.configured:g}"]
    steepest, tenth = curve.suggestion
    told = f"  it falls most steeply at {steepest:.2g}; a tenth of the rate with the least loss is {tenth:.2g}; "
    return [*lines, f"{told}{name} has {curve.configured:g}"]
