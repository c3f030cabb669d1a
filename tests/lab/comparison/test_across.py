"""Methods over several tasks."""

from __future__ import annotations

import numpy as np
import pytest

from lab.comparison import records, summary
from lab.comparison.across import across, scaled
from tests.lab.comparison.synthetic import make_run


def sections_of(tmp_path, scores, **options):
    """`scores[task][gamma]` are the values of its seeds."""
    for task, methods in scores.items():
        for gamma, values in methods.items():
            for seed, value in enumerate(values):
                make_run(tmp_path, f"dqn/{task}", seed, task=task, fields={"module.gamma": gamma}, values=[value])
    read = [records.read(run) for run in map(records.Run, sorted(tmp_path.iterdir()))]
    return summary.sections(read, **options)


SCORES = {"a": {0.9: [0.0, 10.0], 0.99: [5.0, 5.0]}, "b": {0.9: [100.0, 300.0], 0.99: [200.0, 200.0]}}


def test_scores_are_scaled_by_task_and_stratified(tmp_path):
    (found,) = across(sections_of(tmp_path, SCORES))
    assert found.across == 2
    rows = {row.group.label: row for row in found.rows}
    assert set(rows) == {"dqn gamma=0.9", "dqn gamma=0.99"}
    assert sorted(rows["dqn gamma=0.9"].values) == [0, 0, 1, 1]
    assert rows["dqn gamma=0.99"].values == [0.5] * 4
    assert rows["dqn gamma=0.9"].mean.value == 0.5
    assert found.rows[1].against_first.value == pytest.approx(0.5)


def test_resampling_within_tasks_is_narrower_than_across_them():
    """All variance lies between the tasks: a stratified interval is a point."""
    from lab.comparison import statistics

    strata = [np.zeros(5), np.ones(5)]
    assert statistics.estimate(strata, statistics.mean) == (0.5, 0.5, 0.5)


def test_lower_is_better_is_turned_round():
    ((first, second),) = scaled([[np.array([1.0, 3.0]), np.array([2.0])]], "min")
    assert (first.tolist(), second.tolist()) == ([1, 0], [0.5])


def test_one_task_or_one_method_has_no_section_across(tmp_path):
    assert across(sections_of(tmp_path / "1", {"a": SCORES["a"]})) == []
    assert across(sections_of(tmp_path / "2", {"a": {0.9: [1.0]}, "b": {0.9: [1.0]}})) == []
