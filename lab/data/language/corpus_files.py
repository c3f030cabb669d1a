"""Readers of sequences: a table of texts, text files of classes, tagged words, and files of equally many lines.

Sentences about what is wrong name the file, and the line where there is one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lab.data.language.corpus import Corpus, Examples
from lab.data.table_files import column, read_csv
from lab.data.targets.arrays import Array
from lab.data.text import read_text
from lab.errors import UserError, unknown

_SPLITS = {"train": "train", "test": "test", **dict.fromkeys(("val", "valid", "validation", "dev"), "val")}
"""words in the names of files and folders, and in a column `split`, that tell the splits"""
_TEXT_COLUMNS = ("text", "sentence", "review", "document")
_CONLL = (".conllu", ".conll", ".iob", ".bio")
_UPOS = 3
"""the column of universal parts of speech in CoNLL-U"""


def read_corpus(path: Path, text: str | None, target: str | None, tags: int | None) -> Corpus:
    """A table of texts with labels, files of tagged words, or texts in a folder or a file for each class.

    Args:
        text, target: columns of a table; by default `text` (sentence, review, document, else the first), and the last.
        tags: the number, from 1, of the column of tags; by default parts of speech of CoNLL-U, else the last one.
    """
    if path.is_file() and path.suffix in _CONLL:
        return Corpus(read_tagged(path, tags), meaning="tags")
    if path.is_file():
        return read_table(path, text, target)
    tagged = sorted(each for each in path.iterdir() if each.suffix in _CONLL)
    if tagged:
        return Corpus.of({split: read_tagged(file, tags) for split, file in by_split(tagged)}, "tags")
    tables = [each for each in sorted(path.iterdir()) if each.suffix in (".csv", ".tsv")]
    if tables:
        return _united({split: read_table(file, text, target).train for split, file in by_split(tables)})
    folders = [each for each in sorted(path.iterdir()) if each.is_dir() and not each.name.startswith((".", "_"))]
    if any(folder.name in _SPLITS for folder in folders):
        return _united({split: _class_folders(folder) for split, folder in by_split(folders)})
    if folders:
        return Corpus(_class_folders(path))
    return Corpus(_class_files(path))


def read_table(path: Path, text: str | None = None, target: str | None = None) -> Corpus:
    """A CSV or TSV file with a header and a row for each text; a column `split` may hold train, val and test."""
    table = read_csv(path)
    for name, field in ((text, "text"), (target, "target")):
        if name is not None and name not in table.header:
            raise unknown(f"data.{field} column", name, table.header)
    text = text or next((name for name in _TEXT_COLUMNS if name in table.header), table.header[0])
    others = [name for name in table.header if name not in (text, "split")]
    if target is None and not others:
        raise UserError(f"{str(path)!r} has no column beside {text!r} that says what is to be predicted.")
    target = target or others[-1]
    texts, labels = column(table, text), column(table, target)
    for line, sentence, label in zip(table.lines, texts, labels, strict=True):
        if not sentence.strip() or not label.strip():
            raise UserError(f"{str(path)!r}, line {line}: it has no {'label' if sentence.strip() else 'text'}.")
    whole = Examples(texts, _labels(labels))
    if "split" not in table.header:
        return Corpus(whole)
    splits: dict[str, list[int]] = defaultdict(list)
    for number, (line, name) in enumerate(zip(table.lines, column(table, "split"), strict=True)):
        if name not in _SPLITS:
            raise UserError(f"{str(path)!r}, line {line}: split {name!r} is none of {', '.join(_SPLITS)}.")
        splits[_SPLITS[name]].append(number)
    return _united({split: whole.chosen(np.array(numbers)) for split, numbers in splits.items()})


def read_tagged(path: Path, tags: int | None = None) -> Examples:
    """Sentences of tagged words: a word a line, its columns separated by tabs or spaces, a blank line after each.

    The word is the second column of CoNLL-U, whose lines of several tokens (1-2) and of empty ones (1.1) are left out,
    and the first of other files, whose lines of -DOCSTART- are.
    """
    is_conllu = path.suffix == ".conllu"
    chosen = tags - 1 if tags is not None else _UPOS if is_conllu else -1
    sentences: list[list[str]] = []
    labels: list[list[str]] = []
    is_open = False
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            is_open = False
            continue
        cells = line.split("\t") if "\t" in line else line.split()
        if line.startswith("#" if is_conllu else "-DOCSTART-") or (is_conllu and not cells[0].isdecimal()):
            continue
        if len(cells) < 2 or chosen >= len(cells):
            raise UserError(f"{str(path)!r}, line {number}: it has {len(cells)} columns, and none of tags.")
        if not is_open:
            sentences.append([])
            labels.append([])
            is_open = True
        sentences[-1].append(cells[1 if is_conllu else 0])
        labels[-1].append(cells[chosen])
    if not sentences:
        raise UserError(f"{str(path)!r} holds no sentences.")
    return Examples(sentences, labels)


def read_parallel(path: Path, languages: tuple[str, str]) -> Corpus:
    """Files NAME.SOURCE and NAME.TARGET of equally many lines, whose names tell the split (train.de, train.en)."""
    source, target = languages
    firsts = sorted(path.glob(f"*.{source}")) if path.is_dir() else []
    if not firsts:
        raise UserError(
            f"{str(path)!r} is no folder with a file NAME.{source} in it (data.languages={list(languages)})."
        )
    pairs = {split: _pairs(file, file.with_suffix(f".{target}")) for split, file in by_split(firsts)}
    return Corpus.of(pairs, "sentences")


def by_split(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Each split with its file or folder, by what stands in their names; a single file is for training.

    Raises UserError when two are of one split, or none is for training.
    """
    if len(paths) == 1:
        yield "train", paths[0]
        return
    places: dict[str, Path] = {}
    for path in paths:
        words = path.name.lower().replace("-", "_").replace(".", "_").split("_")
        split = next((split for word, split in _SPLITS.items() if word in words), None)
        if split is None:
            continue
        if split in places:
            raise UserError(f"{str(places[split])!r} and {str(path)!r} are both of the {split} split.")
        places[split] = path
    if "train" not in places:
        raise UserError(f"{str(paths[0].parent)!r} needs a file or folder whose name says that it is for train.")
    yield from places.items()


def lines_of(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers."""
    return [(number, line.strip()) for number, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]


def _pairs(source: Path, target: Path) -> Examples:
    texts = [read_text(path).splitlines() for path in (source, target)]
    if len(texts[0]) != len(texts[1]):
        raise UserError(
            f"{str(source)!r} has {len(texts[0]):,} lines, {str(target)!r} has {len(texts[1]):,}; each line needs its "
            f"counterpart."
        )
    for path, lines in zip((source, target), texts, strict=True):
        for number, line in enumerate(lines, 1):
            if not line.strip():
                raise UserError(f"{str(path)!r}, line {number}: it is empty.")
    return Examples(*texts)


def _class_folders(path: Path) -> Examples:
    """Text files in a folder for each class."""
    texts, labels = [], []
    for folder in sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith((".", "_"))):
        files = sorted(folder.rglob("*.txt"))
        if not files:
            raise UserError(f"{str(folder)!r} is a class without text files (.txt).")
        texts += [read_text(file) for file in files]
        labels += [folder.name] * len(files)
    if not texts:
        raise UserError(f"{str(path)!r} holds no folders of text files.")
    return Examples(texts, np.array(labels))


def _class_files(path: Path) -> Examples:
    """A file for each class, NAME.CLASS or CLASS.txt, with a text on each line."""
    files = [each for each in sorted(path.iterdir()) if each.is_file() and each.suffix and each.name[0] not in "._"]
    if len(files) < 2:
        raise UserError(
            f"{str(path)!r} holds no corpus: a table (.csv, .tsv), tagged words (.conllu, .conll), a folder or a file "
            f"of texts for each class."
        )
    texts: list[str] = []
    labels: list[str] = []
    for file in files:
        lines = lines_of(file)
        texts += [line for _, line in lines]
        labels += [file.stem if file.suffix == ".txt" else file.suffix[1:]] * len(lines)
    return Examples(texts, np.array(labels))


def _labels(cells: Sequence[str]) -> Array:
    """Numbers where all cells are numbers, else names."""
    try:
        return np.array([float(cell) for cell in cells])
    except ValueError:
        return np.array(cells)


def _united(splits: dict[str, Examples]) -> Corpus:
    """The splits as a corpus, whose labels are all numbers or all names."""
    if "train" not in splits:
        raise UserError("a corpus needs a train split.")
    if len({np.asarray(each.y).dtype.kind for each in splits.values()}) > 1:
        splits = {name: each._replace(y=np.asarray(each.y).astype(str)) for name, each in splits.items()}
    return Corpus.of(splits)
