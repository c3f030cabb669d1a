"""The corpora by name: files below LAB_DATA."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lab.data.language.corpus import Corpus, Examples, register_corpus
from lab.data.language.corpus_files import lines_of, read_corpus, read_parallel
from lab.errors import UserError

_EACH = 10
"""every so manieth sentence of rt-polarity is for testing, the one before it for validation"""


@register_corpus("rt-polarity")
def rt_polarity(root: Path) -> Corpus:
    """5,331 + 5,331 sentences from reviews of films, for and against (Pang and Lee 2005), from LAB_DATA.

    Every tenth sentence of each file is for testing, the one before it for validation.
    """
    folder = _folder(root, "rt-polarity")
    parts: dict[str, tuple[list[str], list[str]]] = {split: ([], []) for split in ("train", "test", "val")}
    for ending, label in (("neg", "negative"), ("pos", "positive")):
        for number, (_, line) in enumerate(lines_of(folder / f"rt-polarity.{ending}")):
            texts, labels = parts[{_EACH - 1: "test", _EACH - 2: "val"}.get(number % _EACH, "train")]
            texts.append(line)
            labels.append(label)
    return Corpus.of({split: Examples(texts, np.array(labels)) for split, (texts, labels) in parts.items()})


@register_corpus("ud-english-lines")
def ud_english_lines(root: Path) -> Corpus:
    """LinES: 3,457 + 1,118 + 1,121 English sentences with parts of speech (Universal Dependencies), from LAB_DATA."""
    return read_corpus(_folder(root, "ud-english-lines"), None, None, None)


@register_corpus("multi30k-de-en")
def multi30k_de_en(root: Path) -> Corpus:
    """Multi30k: 29,000 German captions of photographs with their English (Elliott et al. 2016), from LAB_DATA."""
    return read_parallel(_folder(root, "multi30k"), ("de", "en"))


def _folder(root: Path, name: str) -> Path:
    folder = root / name
    if not folder.is_dir():
        raise UserError(f"there is no folder {str(folder)!r}; set LAB_DATA or data.root to the folder that holds it.")
    return folder
