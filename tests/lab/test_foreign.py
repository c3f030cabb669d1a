"""Files of strangers: links, pipes, bombs and wrong types are a sentence, and other runs go on."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lab.comparison import records, summary
from lab.comparison.page.html import write_page
from lab.comparison.records import media_of
from lab.config import plain_yaml
from lab.data import npz
from lab.errors import UserError
from lab.foreign import parse_json, read_regular
from lab.runs.directory import Run, find, run_folders
from lab.runs.uploads import upload
from tests.lab.comparison.synthetic import make_run

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "holds more than 200,000 values, aliases written out"),
        ("x: " + "[" * 5_000 + "]" * 5_000, "nested more than 50 levels deep"),
        ("x: &a [*a]", r"\*a stands within itself"),
        ("x: " + "9" * 5_000, "Exceeds the limit"),
        ("x: 2026-13-45", "month must be in"),
        ("x: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("x: *nowhere", "undefined alias"),
    ],
)
def test_a_yaml_bomb_is_refused_before_anything_is_made_of_it(text: str, says: str) -> None:
    began = time.perf_counter()
    with pytest.raises(yaml.YAMLError, match=says):
        plain_yaml.parse(text)
    assert time.perf_counter() - began < 2


def test_yaml_of_the_usual_kind_is_read() -> None:
    assert plain_yaml.parse("a: &x [1, 1e-3]\nb: *x\nc: {d: on}") == {"a": [1, 1e-3], "b": [1, 1e-3], "c": {"d": True}}


def test_json_that_is_nested_too_deeply_is_none() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


def test_only_regular_files_of_a_limited_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(100))
    for name, says in (("pipe", "no regular file"), ("large", "100 bytes, and 99 are the most")):
        with pytest.raises(OSError, match=says):
            read_regular(tmp_path / name, 99)


@pytest.mark.parametrize("name", ["metrics.jsonl", "system.jsonl", "media", "checkpoints", "experiment.yaml"])
def test_a_link_out_of_a_run_is_not_read(tmp_path: Path, name: str) -> None:
    run, other = make_run(tmp_path / "runs"), make_run(tmp_path / "others")
    path = run.path / name
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    path.unlink(missing_ok=True)
    path.symlink_to(other.path / name)
    with pytest.raises(UserError, match=f"'{name}' is a link that leads out of it"):
        Run.open(run.path)


def test_a_link_within_a_run_is_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs")
    (run.path / "latest").symlink_to("metrics.jsonl")
    assert Run.open(run.path).metrics()


def test_pictures_that_are_links_or_pipes_are_left_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"the reader's own")
    run = make_run(tmp_path / "runs", pictures={"samples": 2})
    folder = run.media / "samples"
    (folder / "000000000099.png").symlink_to(secret)
    os.mkfifo(folder / "000000000098.png")
    (run.media / "film.mp4").symlink_to(secret)
    media = media_of(run.media)
    assert len(media.pictures["samples"]) == 2
    assert media.others == []
    write_page(summary.sections([records.read(run)]), tmp_path / "page.html", "x")
    assert b"dGhlIHJlYWRlcidzIG93bg" not in (tmp_path / "page.html").read_bytes()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "system.jsonl", "log.txt"])
def test_a_pipe_where_a_run_is_written_hangs_nobody(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "runs")
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    assert not run.is_alive()
    with pytest.raises(UserError, match=rf"{name}' is no regular file"):
        run.lock()


def test_links_in_what_is_uploaded_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs")
    part = run.path / "wandb" / "offline-run-1" / "files"
    part.mkdir(parents=True)
    (part.parent / "run-1.wandb").write_bytes(b"")
    (part / "id_rsa").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="leads out of the run; it is not uploaded"):
        upload(run)


def test_folders_that_lead_back_are_walked_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a" / "b")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    assert run.path in run_folders(tmp_path)
    assert len({path.resolve() for path in run_folders(tmp_path)}) == 1
    assert len(list(run_folders(tmp_path))) < 20


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "three"},
        {"metrics": [1]},
        {"counter": 7},
        {"counter": "inf"},
        {"seconds": {}},
        {"best": "x"},
        {"recipe": None},
        {"machine": "x"},
        {"monitor": 3},
        {"monitor": {"metric": "eval/return"}},
        {"monitor": {"metric": "eval/return", "mode": "up"}},
        {"best": {"metric": "eval/return"}},
        {"best": {"metric": "eval/return", "value": None}},
        {"metrics": {"eval/return": "high"}},
        {"imports": [7]},
    ],
)
def test_a_result_of_wrong_types_is_left_out_and_the_good_runs_stay(
    tmp_path: Path, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = make_run(tmp_path), make_run(tmp_path, seed=1)
    bad.write_result(bad.result() | change)
    assert [run.path for run in find([str(tmp_path)])] == [good.path]
    assert f"is damaged: {next(iter(change))}" in caplog.text


def test_numbers_of_metrics_that_are_none_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    whole = records.read(run).curves
    lines = [
        {"env_steps": "x", "seconds": 1.0, "eval/return": 1.0},
        {"env_steps": 10**400, "seconds": 1.0, "eval/return": 1.0},
        {"env_steps": 1, "seconds": [1], "eval/return": 1.0},
        {"env_steps": 1, "seconds": 1.0, "eval/return": {"a": 1}},
    ]
    with run.metrics_path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.write("[" * 100_000 + "\n" + '{"env_steps": 1, "seconds": 1.0, "eval/return": NaN}\n[1, 2]\n')
    again = records.read(run).curves
    np.testing.assert_array_equal(again["eval/return"].values, whole["eval/return"].values)


def test_an_archive_that_is_a_pipe_or_claims_too_much(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match="it is no file"):
        npz.read_arrays(tmp_path / "pipe.npz")
    header = {"descr": "|u1", "fortran_order": False, "shape": (2**40,)}
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    import zipfile

    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
    with pytest.raises(ValueError, match="claims 1,099,511,627,776 bytes"):
        npz.read_arrays(tmp_path / "claims.npz")
