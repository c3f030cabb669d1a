"""Readers of folders of picture files: a folder for each class, or a CSV file that says what each picture is."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from lab.data.image_arrays import ImageArrays, Pair
from lab.data.image_files import VALIDATION, read_idx_folder, read_npz
from lab.data.pictures import AS_THEY_ARE, SUFFIXES, Reading, read_picture
from lab.data.splits import held_out
from lab.data.table_files import Table, column, label_columns, read_csv
from lab.data.targets import TargetKind
from lab.data.targets.arrays import Array
from lab.errors import UserError, unknown
from lab.long_work import told

log = logging.getLogger("lab")

_SPLITS = {"train": "train", "0": "train", "test": "test", "2": "test", "1": "val", **dict.fromkeys(VALIDATION, "val")}
"""what a column `split` may hold; the numbers are those of CelebA's partition"""
_FILE_COLUMNS = ("file", "filename", "file_name", "image", "image_id", "path")


def read_path(path: Path, reading: Reading = AS_THEY_ARE) -> ImageArrays:
    """Images from an .npz file, or a folder with IDX files, one .npz, or a folder of images for each class."""
    if path.is_file():
        if path.suffix != ".npz":
            raise UserError(f"data file {str(path)!r} is not an .npz; give an .npz, a folder, or a registered name.")
        return read_npz(path)
    if not path.is_dir():
        raise UserError(f"there is no data in {str(path)!r}; set LAB_DATA or data.root to the folder that holds it.")
    archives = sorted(path.glob("*.npz"))
    if len(archives) == 1:
        return read_npz(archives[0])
    if any(path.glob("*-ubyte*")):
        return read_idx_folder(path)
    return loaded(class_folders(path), path, reading)


def class_folders(path: Path) -> ImageArrays:
    """The files (N,) in a folder for each class, or in folders below it: in `train`, `test` and `val`, or at the top.

    Where there is no `test`, `val` is the test split; where there is neither, a tenth of each class. Folders and files
    that an editor, a notebook or an archive leaves (.ipynb_checkpoints, __MACOSX, ._name) are no classes and no images.
    """
    if not (path / "train").is_dir():
        classes = _classes(path)
        x, y = _files_of(path, classes)
        rest, out = held_out(y, max(1, len(y) // 10))
        return ImageArrays((x[rest], y[rest]), (x[out], y[out]), label_names=tuple(classes))
    folders = {"train": path / "train", "test": path / "test"}
    val = next((path / name for name in VALIDATION if (path / name).is_dir()), None)
    if not folders["test"].is_dir() and val is None:
        raise UserError(f"{str(path)!r} holds a folder train and no folder test (or val); it needs both.")
    if folders["test"].is_dir() and val is not None:
        folders["val"] = val
    elif val is not None:
        folders["test"] = val
    classes = _classes(folders["train"])
    for folder in folders.values():
        for name in _classes(folder):
            if name not in classes:
                raise UserError(f"{str(folder)!r} has a class {name!r} that {str(folders['train'])!r} lacks.")
    splits = {split: _files_of(folder, classes) for split, folder in folders.items()}
    return ImageArrays(splits["train"], splits["test"], splits.get("val"), label_names=tuple(classes))


def labelled_folder(path: Path, labels: str, target: tuple[str, ...], kind: TargetKind) -> ImageArrays:
    """The files (N,) below a folder that a CSV file names, with what it says of them.

    Args:
        labels: the CSV file, in the folder or anywhere. Its column `file` (or filename, image, path; else the first
            one) names pictures relative to the folder. Where it has a column `split`, that says train, val or test of
            each; else a tenth of each class is for testing.
        target: the columns that say what a picture is; by default all others.
        kind: what they hold.

    Raises UserError for files and columns that are not there.
    """
    if not path.is_dir():
        raise UserError(f"{str(path)!r} is no folder of images, whose labels are in data.labels={labels!r}.")
    file = next((each for each in (path / labels, Path(labels).expanduser()) if each.is_file()), None)
    if file is None:
        raise UserError(f"data.labels={labels!r} is neither in {str(path)!r} nor a file by itself.")
    table = read_csv(file)
    if not table.rows:
        raise UserError(f"{str(file)!r} has a header and no rows.")
    named = next((name for name in table.header if name.lower() in _FILE_COLUMNS), table.header[0])
    for name in target:
        if name not in table.header:
            raise unknown("data.target column", name, table.header)
    split_column = next((name for name in table.header if name.lower() == "split" and name not in target), None)
    columns = target or tuple(name for name in table.header if name not in (named, split_column))
    if not columns:
        raise UserError(f"{str(file)!r} has no column beside {named!r} that says what a picture is.")
    y = label_columns(table, columns, kind)
    x = _named_files(path, table, named)
    names = columns if y.ndim == 2 or y.dtype.kind == "f" or kind in ("real", "multi_label") else ()
    if split_column is None:
        rest, out = held_out(_class_numbers(y), max(1, len(y) // 10))
        return ImageArrays((x[rest], y[rest]), (x[out], y[out]), label_names=names)
    words = [cell.lower() for cell in column(table, split_column)]
    for word, line in zip(words, table.lines, strict=True):
        if word not in _SPLITS:
            raise UserError(f"{str(file)!r}, line {line}: split {word!r} is none of train, val, test (or 0, 1, 2).")
    of_split = np.array([_SPLITS[word] for word in words])
    splits = {split: (x[of_split == split], y[of_split == split]) for split in ("train", "val", "test")}
    for split in ("train", "test"):
        if not len(splits[split][0]):
            raise UserError(f"{str(file)!r} has no row whose split is {split}.")
    val = splits["val"] if len(splits["val"][0]) else None
    return ImageArrays(splits["train"], splits["test"], val, label_names=names)


def loaded(arrays: ImageArrays, path: Path, reading: Reading) -> ImageArrays:
    """With the pictures (N, H, W) or, where any of them is in colour, (N, H, W, 3), in the place of their files.

    Raises UserError for pictures that cannot be read, and for several sizes.
    """
    pairs = {"train": arrays.train, "test": arrays.test, "val": arrays.val}
    files = {split: pair[0] for split, pair in pairs.items() if pair is not None}
    images = {
        split: [read_picture(Path(each), reading) for each in told(f"reading images from {path}", part.tolist())]
        for split, part in files.items()
    }
    everything = [image for part in images.values() for image in part]
    sizes = sorted({image.shape[:2] for image in everything})
    if len(sizes) > 1:
        raise UserError(
            f"images in {str(path)!r} differ in size ({sizes[:3]}, height and width); data.size=[{sizes[0][0]},"
            f"{sizes[0][1]}] makes them alike, by data.fit=resize, crop or pad."
        )
    if len({image.ndim for image in everything}) > 1:
        images = {
            split: [i if i.ndim == 3 else np.repeat(i[..., None], 3, 2) for i in part] for split, part in images.items()
        }
    whole = {split: (np.stack(images[split]), pair[1]) for split, pair in pairs.items() if pair is not None}
    return arrays._replace(train=whole["train"], test=whole["test"], val=whole.get("val"))


def image_files(folder: Path) -> list[Path]:
    """The picture files in a folder and below it, in order of their names; how many others there are is logged."""
    files = sorted(folder.rglob("*"))
    files = [f for f in files if not any(map(_is_litter, map(Path, f.relative_to(folder).parts))) and not f.is_dir()]
    others = [file for file in files if file.suffix.lower() not in SUFFIXES or not file.is_file()]
    if others:
        log.warning("%s: %d files are no images that can be read, %s first", folder, len(others), others[0].name)
    left_out = set(others)
    return [file for file in files if file not in left_out]


def _named_files(path: Path, table: Table, named: str) -> Array:
    """The files (N,) of a table's rows. Raises UserError for one that is not below the folder, or of two rows."""
    folder = path.resolve()
    files = [path / name for name in column(table, named)]
    line_of: dict[Path, int] = {}
    for file, line in zip(files, table.lines, strict=True):
        real, name = file.resolve(), str(file.relative_to(path)) if file.is_relative_to(path) else str(file)
        if not real.is_relative_to(folder) or not file.is_file():
            raise UserError(f"line {line} of the labels: there is no image {name!r} in {str(path)!r}.")
        if line_of.setdefault(real, line) != line:
            raise UserError(f"line {line} of the labels: image {name!r} is that of line {line_of[real]}, too.")
    return np.array([str(file) for file in files])


def _class_numbers(y: Array) -> Array:
    """Class numbers (N,) of labels that may be classes, by which a share of each is held out; else zeros."""
    return np.unique(y, return_inverse=True)[1] if y.ndim == 1 and y.dtype.kind in "iU" else np.zeros(len(y), np.int64)


def _classes(path: Path) -> list[str]:
    classes = sorted(child.name for child in path.iterdir() if child.is_dir() and not _is_litter(child))
    if not classes:
        raise UserError(f"{str(path)!r} holds neither IDX files, nor an .npz, nor one folder of images for each class.")
    return classes


def _is_litter(path: Path) -> bool:
    return path.name.startswith((".", "__"))


def _files_of(path: Path, classes: list[str]) -> Pair:
    """Picture files (N,), and the number of each one's class; a class that the folder lacks has none."""
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        folder = path / name
        if not folder.is_dir():
            log.warning("%s has no class %r", path, name)
            continue
        own = [str(file) for file in image_files(folder)]
        if not own:
            log.warning("%s holds no images", folder)
        files += own
        labels += [label] * len(own)
    if not files:
        raise UserError(f"there are no images in {str(path)!r}.")
    return np.array(files), np.asarray(labels)
