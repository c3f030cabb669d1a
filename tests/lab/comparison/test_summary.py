"""The numbers of a comparison."""

from __future__ import annotations

import numpy as np
import pytest

from lab.comparison import records, summary
from lab.errors import UserError
from tests.lab.comparison.synthetic import make_run


def sections_of(*runs, **options):
    return summary.sections([records.read(run) for run in runs], **options)


def test_the_best_group_comes_first_whichever_way_is_good(tmp_path):
    high = [make_run(tmp_path, fields={"module.gamma": g}, values=[1, v]) for g, v in ((0.9, 5), (0.99, 50), (0.5, 20))]
    low = [
        make_run(tmp_path, "vae/digits", task="digits", metric="eval/nll", mode="min", counter="samples", values=[9, v],
                 fields={"module.latents": k})
        for k, v in ((1, 5), (2, 50), (3, 20))
    ]  # fmt: skip
    returns, nll = sections_of(*high, *low)
    assert [row.iqm.value for row in returns.rows] == [50, 20, 5]
    assert [row.iqm.value for row in nll.rows] == [5, 20, 50]
    assert (returns.mode, nll.mode) == ("max", "min")
    assert [row.against_first and row.against_first.value for row in nll.rows] == [None, 1.0, 1.0]


def test_tasks_and_metrics_are_sections_of_their_own(tmp_path):
    found = sections_of(
        make_run(tmp_path),
        make_run(tmp_path, "dqn/acrobot", task="Acrobot-v1"),
        make_run(tmp_path, "vae/digits", task="digits", metric="eval/nll", mode="min", counter="samples"),
    )
    assert [(section.task, section.metric) for section in found] == [
        ("CartPole-v1", "eval/return"),
        ("Acrobot-v1", "eval/return"),
        ("digits", "eval/nll"),
    ]


def test_seeds_are_aggregated(tmp_path):
    values = [10.0, 20.0, 30.0, 1000.0]
    (section,) = sections_of(*(make_run(tmp_path, seed=k, values=[0, v]) for k, v in enumerate(values)))
    (row,) = section.rows
    assert row.values == values
    assert (row.iqm.value, row.mean.value, row.median.value, row.best) == (25.0, 265.0, 25.0, 1000.0)
    assert 10 <= row.iqm.low <= row.iqm.value <= row.iqm.high <= 1000


def test_last_or_best(tmp_path):
    run = make_run(tmp_path, values=[1, 500, 30])
    assert sections_of(run)[0].rows[0].iqm.value == 30
    assert sections_of(run, at="best")[0].rows[0].iqm.value == 500


def test_steps_and_seconds_to_a_threshold(tmp_path):
    runs = [
        make_run(tmp_path, seed=0, values=[1, 2, 10, 3], points=4, budget=4000),  # reached at 3,000
        make_run(tmp_path, seed=1, values=[10, 2, 1, 3], points=4, budget=4000),  # at 1,000
        make_run(tmp_path, seed=2, values=[1, 2, 1, 3], points=4, budget=4000),  # never
    ]
    (row,) = sections_of(*runs, threshold=10)[0].rows
    assert (row.reached, row.steps_to, row.seconds_to) == (2, 2000, 2.0)
    (row,) = sections_of(*runs, threshold=2, mode="min")[0].rows
    assert (row.reached, row.steps_to) == (3, 1000)
    (row,) = sections_of(*runs, threshold=999)[0].rows
    assert (row.reached, row.steps_to, row.seconds_to) == (0, None, None)


def test_throughput_is_steps_by_seconds(tmp_path):
    (row,) = sections_of(make_run(tmp_path, budget=50_000))[0].rows
    assert row.steps_per_second == pytest.approx(1000)


def test_another_metric_brings_its_own_direction(tmp_path):
    run = make_run(tmp_path)
    assert sections_of(run, metric="losses/part_0")[0].mode == "min"
    assert sections_of(run, metric="losses/part_0", mode="max")[0].mode == "max"
    assert sections_of(run, metric="eval/return")[0].mode == "max"


@pytest.mark.parametrize(
    ("metric", "mode"),
    [("eval/cross_entropy", "min"), ("eval/accuracy", "max"), ("eval/bits_per_dim", "min"), ("eval/fid", "min"),
     ("charts/steps_per_second", "max"), ("losses/td_loss", "min")],
)  # fmt: skip
def test_direction_from_the_name(metric, mode):
    assert summary.mode_of(metric, []) == mode


def test_profiles_of_both_directions(tmp_path):
    runs = [make_run(tmp_path, seed=k, values=[v]) for k, v in enumerate([1.0, 2.0, 3.0, 4.0])]
    (section,) = sections_of(*runs)
    at = [float(np.interp(t, section.thresholds, section.profiles[0])) for t in (0.95, 2.5, 4.05)]
    assert at == pytest.approx([1, 0.5, 0], abs=0.05)
    (section,) = sections_of(*runs, mode="min")
    at = [float(np.interp(t, section.thresholds, section.profiles[0])) for t in (0.95, 2.5, 4.05)]
    assert at == pytest.approx([0, 0.5, 1], abs=0.05)


def test_runs_without_a_value_are_counted_not_hidden(tmp_path):
    fresh = make_run(tmp_path, seed=1)
    fresh.metrics_path.write_text("")
    new = make_run(tmp_path, fields={"module.gamma": 0.5})
    new.metrics_path.unlink()
    (section,) = sections_of(make_run(tmp_path, seed=0), fresh, new)
    assert section.rows[0].unmeasured == 1
    assert [group.varied["module.gamma"] for group in section.waiting] == [0.5]
    with pytest.raises(UserError, match="evaluated yet"):
        summary.evaluated(sections_of(new))


def test_an_unknown_metric_is_named_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"'eval/retrun'\. Did you mean 'eval/return'"):
        sections_of(make_run(tmp_path), metric="eval/retrun")
