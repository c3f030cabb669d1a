"""lab predict: what a trained model says of inputs of your own.

Files are read and prepared as the run's data were: pictures, folders and .npz of them, CSV rows, texts; of an agent
observations, as JSON or .npy. `-` is standard input.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.cli import add_checkpoint_argument, add_import_argument, completed, path_argument

if TYPE_CHECKING:
    from lab.data.items import Item
    from lab.training.answer import Answer

EXAMPLE = "lab predict runs/classifier-mnist-cnn-s0-... photo.png more-photos/"
ORDER = 35
_OVERRIDE = re.compile(r"(data|module|trainer|seed)(\.[\w.]+)?=")
_MOST_DRAWN = 240
"""pictures in one file of --out"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    completed(parser.add_argument("target", help="a run directory"), "runs")
    parser.add_argument("files", nargs="*", metavar="FILE", help="inputs; - for standard input (default: -)")
    parser.add_argument("--text", action="append", default=[], metavar="TEXT", help="an input as it stands here")
    add_checkpoint_argument(parser)
    parser.add_argument("--batch-size", type=int, default=100, metavar="N", help="inputs at once (default: 100)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--csv", type=path_argument, metavar="FILE", help="also write a table with every number")
    parser.add_argument(
        "--out", type=path_argument, metavar="FILE", help="also write a .png of the pictures with what is said of each"
    )
    add_import_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from lab.errors import UserError
    from lab.runs.metrics_file import json_safe
    from lab.training.progress import showing_work

    overrides = [word for word in arguments.files if _OVERRIDE.match(word) and not Path(word).exists()]
    sources = [word for word in arguments.files if word not in overrides]
    if not sources and not arguments.text:
        if sys.stdin.isatty():
            raise UserError("give files, folders, or - for standard input.")
        sources = ["-"]
    if not 1 <= arguments.batch_size <= 100_000:
        raise UserError(f"--batch-size {arguments.batch_size} is not valid; give 1 to 100,000.")
    for path, suffix in ((arguments.csv, ".csv"), (arguments.out, ".png")):
        if path is not None and (path.suffix.lower() != suffix or path.is_dir() or not path.parent.is_dir()):
            raise UserError(
                f"{str(path)!r} cannot be written: it needs the ending {suffix}, and a folder that is there."
            )
        if path is not None and path.exists() and any(_reads(source, path) for source in sources):
            raise UserError(f"{str(path)!r} cannot be written: it is one of the inputs.")
    rows: list[tuple[str, Answer]] = []
    pictures: list[Any] = []
    width = max(len(source) for source in [*sources, *arguments.text])
    with showing_work():
        for items, answers in _answered(arguments, overrides, sources):
            if arguments.out is not None and len(pictures) < _MOST_DRAWN:
                pictures += [item.x for item in items]
            for item, answer in zip(items, answers, strict=True):
                if not arguments.json:
                    print(f"{item.name:<{width}}  {_line(answer)}")
                rows.append((item.name, answer))
    if arguments.json:
        told = [{"input": name, "prediction": answer.label, **answer.details} for name, answer in rows]
        print(json.dumps(json_safe(told), indent=2, ensure_ascii=False))
    if arguments.csv is not None:
        _write_csv(arguments.csv, rows)
    if arguments.out is not None:
        _write_pictures(arguments.out, pictures[:_MOST_DRAWN], [answer for _, answer in rows[:_MOST_DRAWN]])
    return 0


def _reads(source: str, path: Path) -> bool:
    """Whether a file is what a source stands for, or in a folder that it stands for."""
    own = Path(source).resolve()
    return source != "-" and path.resolve().is_relative_to(own)


def _answered(
    arguments: argparse.Namespace, overrides: Sequence[str], sources: Sequence[str]
) -> Iterator[tuple[list[Item], list[Answer]]]:
    """Inputs in batches of alike ones, each with what the model says of them."""
    from lab.errors import UserError
    from lab.long_work import tell
    from lab.training.evaluation import evaluating
    from lab.training.restore import restore

    _, data, module, _ = restore(arguments.target, arguments.checkpoint, overrides)
    done = 0
    try:
        if arguments.out is not None and not _are_pictures(data.spec.inputs):
            raise UserError(
                f"--out {str(arguments.out)!r} is for models of pictures; --csv writes what is said of other inputs."
            )
        with evaluating(module, 0):
            for items in _batched(chain(data.items(sources), data.texts(arguments.text)), arguments.batch_size):
                yield items, module.answers(_stacked([item.x for item in items], module.device))
                done += len(items)
                tell("predicting", done, 0)
    finally:
        data.close()


def _batched(items: Iterator[Item], batch_size: int) -> Iterator[list[Item]]:
    """Items one after the other in lists of at most so many, of one shape each."""
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) == batch_size or _shape(batch[0].x) != _shape(item.x)):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _shape(x: Any) -> Any:
    return {name: part.shape for name, part in x.items()} if isinstance(x, dict) else x.shape


def _stacked(inputs: list[Any], device: Any) -> Any:
    import torch

    if isinstance(inputs[0], dict):
        return {name: torch.stack([each[name] for each in inputs]).to(device) for name in inputs[0]}
    return torch.stack(inputs).to(device)


def _are_pictures(inputs: Any) -> bool:
    return not isinstance(inputs, dict) and len(inputs.shape) == 3 and inputs.shape[0] in (1, 3)


def _line(answer: Answer) -> str:
    """The label, and the numbers of which there is one by a name, but for one that is the label."""
    plain = {name: value for name, value in answer.details.items() if not isinstance(value, dict)}
    rest = [f"{name} {value:.4g}" for name, value in plain.items() if answer.label != f"{name} {value:.5g}"]
    return "  ".join([answer.label, *rest])


def _write_csv(path: Path, rows: list[tuple[str, Answer]]) -> None:
    from lab.runs.files import write_atomic

    flat = [{"input": name, "prediction": answer.label, **_flat(answer.details)} for name, answer in rows]
    columns = _in_order(dict.fromkeys(key for row in flat for key in row))
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    write_atomic(path, file.getvalue())


def _in_order(columns: Iterable[str]) -> list[str]:
    """Columns of one number for each name (`probability of 2`) by these names; else as they come."""
    groups: dict[str, list[str]] = {}
    for column in columns:
        groups.setdefault(column.partition(" of ")[0], []).append(column)

    def parts(column: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", column)]

    return [column for group in groups.values() for column in sorted(group, key=parts)]


def _flat(details: dict[str, Any]) -> dict[str, Any]:
    """Numbers by name, of a dict of numbers one a column: `probability of cat`."""
    singular = {"probabilities": "probability", "scores": "score", "values": "value", "q_values": "q_value"}
    flat: dict[str, Any] = {}
    for name, value in details.items():
        if isinstance(value, dict):
            flat |= {f"{singular.get(name, name)} of {key}": number for key, number in value.items()}
        else:
            flat[name] = value
    return flat


def _write_pictures(path: Path, inputs: list[Any], answers: list[Answer]) -> None:
    import torch

    from lab.pictures import captioned_grid, save_png
    from lab.runs.files import disk_failure

    grid = captioned_grid(torch.stack(inputs), [answer.label for answer in answers], columns=min(len(inputs), 8))
    try:
        save_png(grid, path)
    except OSError as error:
        raise disk_failure(path, error) from error
