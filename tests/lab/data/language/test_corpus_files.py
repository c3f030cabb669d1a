"""Readers of sequences: what they take, and the sentences about what they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.data.language.corpus import Corpus
from lab.data.language.corpus_files import read_corpus, read_parallel, read_tagged
from lab.errors import UserError

CONLLU = """# sent_id = 1
1-2\tdon't\t_\t_\t_
1\tdo\tdo\tAUX\t_
2\tn't\tnot\tPART\t_
2.1\tghost\t_\t_\t_

1\tGo\tgo\tVERB\tX
"""


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def read(path: Path) -> Corpus:
    return read_corpus(path, None, None, None)


def test_a_table_of_texts(tmp_path: Path) -> None:
    write(tmp_path, {"a.tsv": "id\tsentence\tlabel\n1\tso good\tgood\n2\tso bad\tbad\n"})
    corpus = read(tmp_path / "a.tsv")
    assert (list(corpus.train.x), list(corpus.train.y)) == (["so good", "so bad"], ["good", "bad"])
    assert corpus.test is None
    write(tmp_path, {"b.csv": 'text,split,stars\n"a, b",train,4.5\nc,dev,1\nd,test,2\n'})
    corpus = read(tmp_path / "b.csv")
    assert (list(corpus.train.x), list(corpus.train.y)) == (["a, b"], [4.5])
    assert corpus.val is not None
    assert corpus.test is not None
    assert (list(corpus.val.x), list(corpus.test.y)) == (["c"], [2.0])


def test_tables_folders_and_files_of_classes(tmp_path: Path) -> None:
    tables = write(tmp_path / "tables", {"train.csv": "text,label\na,x\n", "dev.csv": "text,label\nb,x\n"})
    corpus = read(tables)
    assert (list(corpus.train.x), list(corpus.val.x if corpus.val else [])) == (["a"], ["b"])
    folders = write(tmp_path / "folders", {"pos/1.txt": "good\nfilm", "pos/2.txt": "fine", "neg/1.txt": "bad"})
    corpus = read(folders)
    assert list(zip(corpus.train.x, corpus.train.y, strict=True)) == [
        ("bad", "neg"),
        ("good\nfilm", "pos"),
        ("fine", "pos"),
    ]
    split = write(tmp_path / "split", {"train/a/1.txt": "1", "train/b/1.txt": "2", "test/a/1.txt": "3"})
    corpus = read(split)
    assert (len(corpus.train.x), list(corpus.test.y if corpus.test else [])) == (2, ["a"])
    files = write(tmp_path / "files", {"r.pos": "one\n\ntwo\n", "r.neg": "three\n"})
    corpus = read(files)
    assert list(zip(corpus.train.x, corpus.train.y, strict=True)) == [("three", "neg"), ("one", "pos"), ("two", "pos")]


def test_tagged_words(tmp_path: Path) -> None:
    write(tmp_path, {"x.conllu": CONLLU})
    assert read_tagged(tmp_path / "x.conllu") == ([["do", "n't"], ["Go"]], [["AUX", "PART"], ["VERB"]])
    assert read_tagged(tmp_path / "x.conllu", 3).y == [["do", "not"], ["go"]]
    write(tmp_path, {"y.conll": "-DOCSTART- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\nGerman JJ B-MISC\n"})
    assert read_tagged(tmp_path / "y.conll") == ([["EU", "rejects"], ["German"]], [["B-ORG", "O"], ["B-MISC"]])


def test_parallel_files(tmp_path: Path) -> None:
    files = {"train.de": "ja\nnein\n", "train.en": "yes\nno\n", "val.de": "so\n", "val.en": "so\n"}
    corpus = read_parallel(write(tmp_path, files), ("de", "en"))
    assert (corpus.meaning, corpus.train) == ("sentences", (["ja", "nein"], ["yes", "no"]))
    assert corpus.val == (["so"], ["so"])


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"a.csv": "text,label\nx,\n"}, "a.csv', line 2: it has no label"),
        ({"a.csv": "text,label\n,x\n"}, "a.csv', line 2: it has no text"),
        ({"a.csv": "text\nx\n"}, "has no column beside 'text'"),
        ({"a.csv": "text,label,split\nx,y,tset\n"}, "line 2: split 'tset' is none of train, test"),
        ({"a.conll": "EU\n"}, "a.conll', line 1: it has 1 columns"),
        ({"a.conllu": "# nothing\n"}, "holds no sentences"),
        ({"x.conllu": CONLLU, "y.conllu": CONLLU}, "needs a file or folder whose name says that it is for train"),
        ({"train-a.conllu": CONLLU, "train-b.conllu": CONLLU}, "are both of the train split"),
        ({"pos/1.txt": "x", "neg/.keep": ""}, "neg' is a class without text files"),
        ({"only.txt": "x"}, "holds no corpus"),
    ],
)
def test_what_is_wrong_is_said_with_its_file(tmp_path: Path, files: dict[str, str], sentence: str) -> None:
    folder = write(tmp_path / "corpus", files)
    path = folder / next(iter(files)) if len(files) == 1 and "only.txt" not in files else folder
    with pytest.raises(UserError) as error:
        read(path)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("english", "sentence"),
    [("yes\n", "has 2 lines, "), ("yes\n\n", "train.en', line 2: it is empty"), ("yes\nno\nso\n", "has 3; each line")],
)
def test_parallel_files_that_do_not_fit_are_refused(tmp_path: Path, english: str, sentence: str) -> None:
    folder = write(tmp_path, {"train.de": "ja\nnein\n", "train.en": english})
    with pytest.raises(UserError) as error:
        read_parallel(folder, ("de", "en"))
    assert sentence in str(error.value)
    with pytest.raises(UserError, match=r"is no folder with a file NAME\.fr in it"):
        read_parallel(folder, ("fr", "en"))
