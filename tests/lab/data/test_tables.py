"""Tables: CSV files as people write them, columns as numbers, splits that are drawn and stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lab.data.table_files import encoder_of, parse_csv, read_csv
from lab.data.tables import TableData, TableModule
from lab.data.targets import RealValues
from lab.errors import UserError


def written(folder: Path, text: str | bytes, name: str = "t.csv") -> str:
    """The path of a file."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def rows(num: int) -> str:
    """A table in which y is 2 a + 1, b are words, c lacks every third number."""
    lines = ["a,b,c,y"]
    lines += [f"{i},{'uvw'[i % 3]},{'' if i % 3 == 0 else i},{2 * i + 1}" for i in range(num)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_ends_marks_and_quotes_are_read(separator: str, end: str, tmp_path: Path) -> None:
    lines = ['\ufeffname|"size, m"|y', '"a|b"| 1.5|2', "", "é|-3e2|4"]
    text = end.join(
        line.replace("|", separator) if '"a|b"' not in line else f'"a{separator}b"{separator} 1.5{separator}2'
        for line in lines
    )
    table = read_csv(Path(written(tmp_path, text)))
    assert table.header == ("name", "size, m", "y")
    assert table.rows == [[f"a{separator}b", "1.5", "2"], ["é", "-3e2", "4"]]


def test_columns_become_numbers_by_the_training_rows_alone(tmp_path: Path) -> None:
    text = "n,word,y\n1,red,0\n3,blue,0\nNA,red,0\n5,?,0\n100,green,0\n"
    table = read_csv(Path(written(tmp_path, text)))
    encoder = encoder_of(table, ("n", "word"), np.array([0, 1, 2, 3]))
    names, means, scales = encoder.statistics
    values = encoder.encode(table)
    assert names == ("n", "word=blue", "word=red")
    mean, scale = 3.0, np.std([1, 3, 5])
    assert values[:, 0] == pytest.approx([(1 - mean) / scale, 0, 0, (5 - mean) / scale, (100 - mean) / scale])
    assert values[:, 1:].tolist() == [[0, 1], [1, 0], [0, 1], [0, 0], [0, 0]]
    assert means == (mean, 0, 0)
    assert scales == pytest.approx((scale, 1, 1))
    other = parse_csv("word;n;more\nred;3;x\nviolet;NA;y\n", "other")
    assert encoder.encode(other).tolist() == [[0, 0, 1], [0, 0, 0]]
    with pytest.raises(UserError, match=r"column 'n', line 2: 'many' is no number"):
        encoder.encode(parse_csv("word,n\nred,many\n", "other"))


def test_numbers_are_standardized_before_they_lose_digits(tmp_path: Path) -> None:
    text = "a,y\n" + "".join(f"{1e8 + i % 2:.0f},{i % 2}\n" for i in range(40))
    data = TableData(name=written(tmp_path, text)).build(0)
    (batch,) = data.batches("train")
    assert batch.x[:, 0].unique().numel() == 2
    assert (batch.x[:, 0] > 0).float().tolist() == batch.y[:, 0].tolist()


def split_rows(data: TableModule) -> dict[str, list[float]]:
    """The y of each split."""
    return {name: torch.cat([b.y for b in data.batches(name)])[:, 0].tolist() for name in ("train", "val", "test")}  # type: ignore[arg-type]


def test_a_column_of_one_value_is_divided_by_one(tmp_path: Path) -> None:
    text = "a,b,y\n" + "".join(f"0.1,{i},0.1\n" for i in range(60))
    module = TableData(name=written(tmp_path, text)).build(0)
    assert isinstance(module.spec.target, RealValues)
    assert (module.spec.target.mean, module.spec.target.scale) == ((0.1,), (1.0,))
    assert not next(module.batches("train")).x[:, 0].any()
    (tmp_path / "new.csv").write_text("a,b\n0.1,1\n0.6,1\n1e39,1\n")
    with pytest.raises(UserError, match=r"new.csv': column 'a', line 4: '1e39' is too large"):
        list(module.items([str(tmp_path / "new.csv")]))
    (tmp_path / "new.csv").write_text("a,b\n0.1,1\n0.6,1\n")
    assert [float(item.x[0]) for item in module.items([str(tmp_path / "new.csv")])] == pytest.approx([0, 0.5])


def test_numbers_that_are_names_are_categories(tmp_path: Path) -> None:
    text = "code,y\n" + "".join(f"{'20B' if i == 3 else i % 3},{i}\n" for i in range(60))
    module = TableData(name=written(tmp_path, text), categories=("code",)).build(0)
    assert module.spec.statistics is not None
    assert set(module.spec.statistics.names) <= {"code=0", "code=1", "code=2", "code=20B"}
    x = torch.cat([next(module.batches(split)).x for split in ("train", "val", "test")])
    assert set(x.unique().tolist()) == {0.0, 1.0}


def test_splits_are_drawn_whole_and_stay(tmp_path: Path) -> None:
    name = written(tmp_path, rows(100))
    first, other_seed, other_split = (
        split_rows(TableData(name=name, split_seed=split).build(seed)) for seed, split in ((0, 0), (5, 0), (0, 1))
    )
    assert first == other_seed != other_split
    assert {key: len(values) for key, values in first.items()} == {"train": 70, "val": 15, "test": 15}
    assert sorted(value for values in first.values() for value in values) == [2 * i + 1 for i in range(100)]
    assert first["test"] != sorted(first["test"])


def test_targets_and_dropped_columns_are_no_inputs(tmp_path: Path) -> None:
    name = written(tmp_path, rows(100))
    data = TableData(name=name, target=("y", "a"), drop=("b",)).build(0)
    assert data.spec.inputs.shape == (1,)
    assert isinstance(data.spec.target, RealValues)
    assert data.spec.target.names == ("y", "a")
    values = split_rows(data)["train"]
    assert data.spec.target.mean[0] == pytest.approx(np.mean(values))
    assert data.spec.target.scale[0] == pytest.approx(np.std(values))
    assert data.spec.statistics is not None
    assert data.spec.statistics.names == ("c",)


def test_a_resumed_stream_goes_on_where_it_was(tmp_path: Path) -> None:
    config = TableData(name=written(tmp_path, rows(100)), batch_size=16, batches_per_step=3)
    whole = config.build(3)
    first, second = list(whole.next_chunk()), list(whole.next_chunk())
    resumed = config.build(3)
    list(resumed.next_chunk())
    state = resumed.state_dict()
    resumed = config.build(3)
    resumed.load_state_dict(state)
    assert all(
        torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(second, resumed.next_chunk(), strict=True)
    )
    assert not torch.equal(first[0].x, second[0].x)


@pytest.mark.parametrize(
    ("text", "words", "part"),
    [
        (b"", {}, "is empty"),
        (b"\xff\xfea", {}, "is not UTF-8"),
        ("a,b\n1,2\n3\n", {}, "line 3: 1 cells, but the header has 2 columns"),
        ("a,a,y\n1,2,3\n", {}, "two columns of the name 'a'"),
        ("1,2,3\n4,5,6\n", {}, "numbers in its first line"),
        ('a,y\n"1,2\n', {}, "line 2"),
        (rows(5), {}, "has 5 rows"),
        (rows(50), {"target": ("z",)}, "data.target column 'z'"),
        (rows(50), {"drop": ("z",)}, "data.drop column 'z'"),
        (rows(50), {"target": ("b",), "target_kind": "real"}, "data.target='b', line 2: 'u' is no number that can be"),
        (rows(50), {"target": ("a", "b")}, "data.target='b', line 2: 'u' is no number that can be predicted"),
        (rows(50), {"target": ("c",)}, "data.target='c', line 2: '' is nothing that can be predicted"),
        (rows(50), {"target": ("a", "b"), "target_kind": "classes"}, "has 2 columns; classes are the words of one"),
        ("a;y\n" + "".join(f"{i},5;{i}\n" for i in range(50)), {}, "line 2: '0,5' has a decimal comma; numbers need"),
        ("a;y\n" + "".join(f"{i};{i},5\n" for i in range(50)), {}, "column 'y', line 2: '0,5' has a decimal comma"),
        (rows(50), {"target_kind": "multi_label"}, "a row of 0 and 1 for each sample"),
        (rows(50), {"drop": ("a", "b", "c")}, "no column from which anything could be predicted"),
        (rows(50).replace("\n7,", "\ninf,"), {}, "column 'a', line 9: 'inf' is not finite"),
        (rows(50).replace("\n7,", "\nmany,"), {}, "line 9: 'many' is no number, as most cells of the column are"),
        (rows(50).replace("\n7,", "\n1_000,"), {}, "line 9: '1_000' is no number"),
        ("a,y\n" + "".join(f"{i}e300,{i}\n" for i in range(50)), {}, "column 'a' holds numbers up to"),
        ("a,y\n" + "".join(f"{i},{i}.5e300\n" for i in range(50)), {}, "values of 'y' go up to"),
        ("a,y\n" + "".join(f"word{i},{i}\n" for i in range(300)), {}, "leave it out: data.drop=[a]"),
        ("a,y\n" + "".join(f"NA,{i}\n" for i in range(50)), {}, "column 'a' holds no number"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    text: str | bytes, words: dict[str, tuple[str, ...]], part: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as raised:
        TableData(name=written(tmp_path, text), **words).build(0)  # type: ignore[arg-type]
    assert part in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_or_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no CSV file"):
        TableData(name=str(tmp_path)).build(0)
    with pytest.raises(UserError, match="diabetes"):
        TableData(name="diabets").build(0)


def test_diabetes_is_the_one_that_scikit_learn_carries() -> None:
    from sklearn.datasets import load_diabetes

    data = TableData().build(0)
    y = sorted(value for values in split_rows(data).values() for value in values)
    assert y == sorted(load_diabetes().target.tolist())
    assert data.spec.inputs.shape == (10,)


def test_noise_is_of_the_seed_and_the_position_and_for_training_alone() -> None:
    plain, noisy = (TableData(batch_size=32, noise=noise) for noise in (0.0, 0.5))
    first, again, clean = noisy.build(0), noisy.build(0), plain.build(0)
    batches = list(first.next_chunk())
    noise = torch.cat([a.x - b.x for a, b in zip(batches, clean.next_chunk(), strict=True)])
    assert float(noise.std()) == pytest.approx(0.5, rel=0.03)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    again.load_state_dict(first.state_dict())
    assert all(torch.equal(a.x, b.x) for a, b in zip(first.next_chunk(), again.next_chunk(), strict=True))
    for split in ("train", "val"):
        assert torch.equal(next(first.batches(split)).x, next(clean.batches(split)).x)
    assert torch.equal(first.training_sample(20).x, clean.training_sample(20).x)


def test_two_ranks_share_the_noise_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (whole, *_) = TableData(batch_size=32, noise=0.5).build(0).next_chunk()
    parts = []
    for rank in range(2):
        monkeypatch.setattr("lab.ranks.ranks.num_ranks", lambda: 2)
        monkeypatch.setattr("lab.ranks.ranks.rank", lambda rank=rank: rank)
        (part, *_) = TableData(batch_size=16, noise=0.5).build(0).next_chunk()
        parts.append(part)
    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
    assert torch.equal(torch.cat([part.y for part in parts]), whole.y)
