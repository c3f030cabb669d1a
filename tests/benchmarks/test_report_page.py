"""The synthetic runs of the report's benchmark are runs that this lab reads."""

from __future__ import annotations

import importlib
from pathlib import Path

from lab.comparison import records
from lab.runs.directory import find


def test_synthetic_runs_are_in_the_format_of_today(benchmarks: None, tmp_path: Path) -> None:
    importlib.import_module("report_page").write_runs(tmp_path, num_runs=6, num_points=20)
    read = [records.read(run) for run in find([str(tmp_path)])]
    assert len(read) == 6
    assert {len(record.curves["eval/return"].values) for record in read} == {20}
