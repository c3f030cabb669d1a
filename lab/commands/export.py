"""lab export: write a trained network as torch.export and ONNX.

The files run without the lab.
"""

from __future__ import annotations

import argparse
import json

from lab.cli import add_checkpoint_argument, add_import_argument, completed, path_argument

EXAMPLE = "lab export runs/dqn-cartpole-s3-..."
ORDER = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    completed(parser.add_argument("target", help="a run directory"), "runs")
    parser.add_argument(
        "--out", type=path_argument, metavar="DIR", help="the folder to write (default: export/ in the run)"
    )
    add_checkpoint_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_import_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from lab.errors import UserError
    from lab.export import export
    from lab.runs.directory import Run
    from lab.training.restore import restore

    trained = Run.open(arguments.target)
    experiment, data, module, _ = restore(trained, arguments.checkpoint, ["trainer.device=cpu"])
    try:
        what = module.exportable(data)
    finally:
        data.close()
    if what is None:
        raise UserError(
            f"{experiment.name} trains module.kind={experiment.module.kind!r}, of which lab export knows no network; "
            f"it takes policies, classifiers, decoders and generators."
        )
    folder = arguments.out or trained.path / "export"
    with Console(stderr=True).status("exporting, and comparing outputs"):
        report = export(what, folder)
    if arguments.json:
        print(json.dumps({"folder": str(folder), **report}, indent=2))
        return 0
    for form, difference in report["largest_difference"].items():
        print(f"{form}: equal to the network on random inputs, to {difference:.1e}")
    print(f"{folder}: {what.name}.pt2, {what.name}.onnx, model.json, example.py")
    print(f"next: python {folder / 'example.py'}")
    return 0
