"""What makes a group and what it is called."""

from __future__ import annotations

from lab.comparison import groups, records
from tests.lab.comparison.synthetic import make_run


def read_all(*runs):
    return [records.read(run) for run in runs]


def test_seeds_and_bookkeeping_do_not_split_a_group(tmp_path):
    runs = read_all(
        make_run(tmp_path, seed=0),
        make_run(tmp_path, seed=1, fields={"tracking.group": "night", "trainer.checkpoint_seconds": 5.0}),
        make_run(tmp_path, seed=2, fields={"module.gamma": 0.9}),
    )
    found = groups.group(runs)
    assert [[run.seed for run in group.runs] for group in found] == [[0, 1], [2]]
    assert [group.label for group in found] == ["dqn/cartpole gamma=0.99", "dqn/cartpole gamma=0.9"]
    assert found[1].varied == {"module.gamma": 0.9}


def test_a_label_names_only_what_varies_within_its_recipe(tmp_path):
    runs = read_all(
        make_run(tmp_path, "dqn/cartpole"),
        make_run(tmp_path, "policy_gradient/cartpole", fields={"module.gae": 0.95}),
        make_run(tmp_path, "policy_gradient/cartpole", fields={"module.gae": 0.8}),
    )
    labels = [group.label for group in groups.group(runs)]
    assert labels == ["dqn/cartpole", "policy_gradient/cartpole gae=0.95", "policy_gradient/cartpole gae=0.8"]


def test_short_names_stay_apart():
    names = ["module.actor.lr", "module.critic.lr", "module.gamma"]
    assert groups.short_names(names) == {
        "module.actor.lr": "actor.lr",
        "module.critic.lr": "critic.lr",
        "module.gamma": "gamma",
    }


def test_an_absent_field_differs_from_a_present_one(tmp_path):
    runs = read_all(make_run(tmp_path), make_run(tmp_path, fields={"module.double": True}))
    assert [group.varied for group in groups.group(runs)] == [{"module.double": "—"}, {"module.double": True}]


def test_the_task_is_the_environment_or_the_data_set(tmp_path):
    runs = read_all(make_run(tmp_path), make_run(tmp_path, "vae/digits", task="digits", counter="samples"))
    assert [groups.task_of(run) for run in runs] == ["CartPole-v1", "digits"]


def test_runs_of_kinds_that_are_not_installed_compare(tmp_path):
    runs = read_all(make_run(tmp_path, "other/thing", fields={"module.kind": "not_installed_anywhere"}))
    assert groups.group(runs)[0].recipe == "other/thing"
