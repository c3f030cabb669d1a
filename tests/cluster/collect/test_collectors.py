"""A fleet of collectors brings what local ones would, also when some of them are killed."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.envs.make import make_envs
from agents.experience.collector import EnvArguments, LocalCollector
from agents.types import Episode, Rollout
from cluster.collect.collectors import RemoteCollector, RemoteCollectorConfig
from cluster.collect.messages import SMALL_BYTES, Parcel, join, portable
from lab.config.overrides import resolve
from lab.errors import Failure, UserError
from lab.runs import checkpoint
from lab.seeding import derive_seed
from lab.training.train import resume, train

ENVS = EnvArguments("CartPole-v1", 4, {})


@pytest.fixture(scope="module")
def policy() -> Any:
    experiment = resolve("pg/cartpole", ["seed=0"])
    data = experiment.data.build(0)
    module: Any = experiment.module.build(data.spec)
    data.close()
    return module.policy


def local(index: int, num_envs: int = 2) -> LocalCollector:
    return LocalCollector(make_envs(ENVS.env, num_envs, {}), derive_seed(7, "collector", index))


def update(policy: Any) -> None:
    """What a learner does between two collects."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)


def assert_same(one: Rollout, other: Rollout) -> None:
    for name in ("obs", "action", "reward", "terminated", "truncated", "next_obs", "start", "valid"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.episodes == other.episodes
    assert one.extras.keys() == other.extras.keys()
    for key, value in one.extras.items():
        torch.testing.assert_close(value, other.extras[key])


def test_a_fleet_with_deaths_brings_what_local_collectors_do(cluster: Any, policy: Any) -> None:
    import ray

    remote = RemoteCollector(RemoteCollectorConfig(num=2, num_cpus=0.5), ENVS, seed=7)
    locals_ = [local(0), local(1)]
    try:
        for version in range(5):
            if version in (1, 3):  # once between two collects, once in the middle of one
                victim = remote.fleet.actors[version % 2]
                pid = ray.get(victim.__ray_call__.remote(lambda self: os.getpid()))
                if version == 3:
                    victim.__ray_call__.remote(lambda self: os.kill(os.getpid(), signal.SIGKILL))
                else:
                    os.kill(pid, signal.SIGKILL)
            fleet = remote.collect(policy, 40, version)
            assert_same(fleet, join([collector.collect(policy, 40, version) for collector in locals_]))
            assert fleet.policy_version == version
        assert remote.statistics()["charts/collector_restarts"] == 2
        assert remote.statistics()["charts/staleness"] == 0
        state = remote.state_dict()
        following = remote.collect(policy, 40)
        remote.collect(policy, 40)
        remote.load_state_dict(state)
        assert_same(remote.collect(policy, 40), following)
    finally:
        remote.close()


def test_collectors_of_a_machine_of_their_own_keep_to_their_cores(cluster: Any, policy: Any) -> None:
    import ray

    cores = sorted(os.sched_getaffinity(0))[:2]
    remote = RemoteCollector(RemoteCollectorConfig(num=2, num_cpus=0.5), ENVS, seed=7)
    try:
        assert remote.fleet.cores == [None, None]  # this cluster may be others' too
        remote.fleet.cores = [[cores[0]], [cores[-1]]]
        remote.collect(policy, 8)
        own_cores = [
            ray.get(actor.__ray_call__.remote(lambda self: os.sched_getaffinity(0))) for actor in remote.fleet.actors
        ]
        assert own_cores == [{cores[0]}, {cores[-1]}]
        assert ray.get(remote.fleet.actors[0].__ray_call__.remote(lambda self: os.nice(0))) == os.nice(0)
    finally:
        remote.close()


def test_a_pipelined_fleet_is_one_collect_behind(cluster: Any, policy: Any) -> None:
    remote = RemoteCollector(RemoteCollectorConfig(num=1, num_cpus=0.5, mode="pipelined"), ENVS, seed=7)
    try:
        versions = [remote.collect(policy, 8, version).policy_version for version in (0, 10, 20)]
        assert versions == [0, 0, 10]
        assert remote.statistics()["charts/staleness"] == 10
        assert remote.statistics()["charts/staleness_collects"] == 1
    finally:
        remote.close()


@pytest.mark.parametrize("num_weights_sent_with_a_request", [SMALL_BYTES, 0])
def test_a_pipelined_fleet_goes_on_with_the_rollout_under_way(
    cluster: Any, policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_weights_sent_with_a_request: int
) -> None:
    """It was asked of the weights before the update, and is collected again with those."""
    monkeypatch.setattr("cluster.collect.object_store.SMALL_BYTES", num_weights_sent_with_a_request)
    settings = RemoteCollectorConfig(num=2, num_cpus=0.5, mode="pipelined")
    remote, learner = RemoteCollector(settings, ENVS, seed=7), copy.deepcopy(policy)

    def following() -> list[tuple[Rollout, dict[str, float]]]:
        return [(remote.collect(learner, 40, version), remote.statistics()) for version in (20, 30)]

    try:
        remote.collect(learner, 40, 0)
        update(learner)
        remote.collect(learner, 40, 10)
        update(learner)
        checkpoint.save(tmp_path / "state", {"experiment": {}, "state": remote.state_dict()})
        undisturbed = following()
        remote.load_state_dict(checkpoint.load(tmp_path / "state")["state"])
        for (rollout, statistics), (again, statistics_again) in zip(undisturbed, following(), strict=True):
            assert_same(rollout, again)
            assert rollout.policy_version == again.policy_version
            assert statistics == statistics_again
        assert [rollout.policy_version for rollout, _ in undisturbed] == [10, 20]
    finally:
        remote.close()


def test_a_pipelined_run_that_is_stopped_and_resumed_ends_as_undisturbed(cluster: Any, tmp_path: Path) -> None:
    words = ["trainer.budget=4096", "trainer.eval_period=1024", "data.num_envs=4", "data.num_steps=32"]
    words += ["data.collector.kind=remote", "data.collector.num=2", "data.collector.num_cpus=0.5", "data.rounds=2"]
    words += ["data.collector.mode=pipelined", "tracking.mode=disabled", "trainer.log_period=256", "seed=2"]
    undisturbed = train(resolve("ppo/cartpole", words), run_dir=tmp_path / "undisturbed")
    loops: list[Any] = []

    def stop(metrics: dict[str, float]) -> None:
        if metrics["env_steps"] == 2048:
            loops[0].ask_to_stop()

    stopped = train(
        resolve("ppo/cartpole", words), run_dir=tmp_path / "stopped", on_loop=loops.append, on_evaluation=stop
    )
    assert stopped.status == "interrupted"
    resumed = resume(stopped.run)
    timeless = [
        [{key: value for key, value in row.items() if "second" not in key} for row in run.metrics()]
        for run in (undisturbed.run, resumed.run)
    ]
    for row, again in zip(*timeless, strict=True):
        assert row == again


def test_an_asynchronous_fleet_keeps_its_bound_and_loses_nothing(cluster: Any, policy: Any) -> None:
    import ray

    settings = RemoteCollectorConfig(num=2, num_cpus=0.5, mode="asynchronous", max_staleness=3)
    remote = RemoteCollector(settings, ENVS, seed=7)
    locals_ = [local(0), local(1)]
    old: list[float] = []
    try:
        for version in range(0, 120, 10):
            if version == 30:  # a collector dies that owes three rollouts
                os.kill(ray.get(remote.fleet.actors[1].__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)
            if version in (50, 80):
                time.sleep(0.3)  # a learner that takes its time: everything under way gets old
            fleet = remote.collect(policy, 40, version)
            assert_same(fleet, join([each.collect(policy, 40, version) for each in locals_]))
            statistics = remote.statistics()
            old.append(statistics["charts/staleness_collects"])
            assert statistics["charts/staleness"] == 10 * old[-1] == version - fleet.policy_version
        assert max(old) == 3
        assert remote.statistics()["charts/collector_restarts"] == 1
    finally:
        remote.close()


def test_an_asynchronous_collector_begins_with_the_newest_weights(cluster: Any, policy: Any) -> None:
    """Rollouts are asked for three collects ahead; a learner that is faster than its collector sees none so old."""
    settings = RemoteCollectorConfig(num=1, num_cpus=0.5, mode="asynchronous", max_staleness=3)
    remote = RemoteCollector(settings, ENVS, seed=7)
    try:
        old: list[float] = []
        for version in range(0, 1000, 10):
            remote.collect(policy, 1000, version)
            old.append(remote.statistics()["charts/staleness_collects"])
            if len(old) > 5 and old[-1] < 3:
                break
        assert old[-1] < 3
    finally:
        remote.close()


@pytest.mark.parametrize("recipe", ["impala/cartpole", "dqn/cartpole"])
def test_agents_train_on_an_asynchronous_fleet(cluster: Any, tmp_path: Path, recipe: str) -> None:
    words = ["trainer.budget=6000", "trainer.eval_period=6000", "data.num_envs=4", "data.num_steps=20", "data.rounds=4"]
    words += ["data.collector.kind=remote", "data.collector.num=1", "data.collector.mode=asynchronous"]
    words += ["data.collector.max_staleness=2", "tracking.mode=disabled", "trainer.log_period=500"]
    words += ["module.staleness=0"] if recipe.startswith("impala") else []
    result = train(resolve(recipe, words), run_dir=tmp_path / "run")
    staleness = [row["charts/staleness_collects"] for row in result.run.metrics() if "charts/staleness_collects" in row]
    assert result.status == "completed"
    assert 0 < max(staleness) <= 2


def test_environments_must_be_divisible(cluster: Any) -> None:
    with pytest.raises(UserError, match=r"data\.num_envs=4 cannot be divided among data\.collector\.num=3"):
        RemoteCollectorConfig(num=3).build(ENVS, 0)
    with pytest.raises(UserError, match=r"data\.collector\.num=4 needs 400 CPU; the cluster has"):
        RemoteCollectorConfig(num=4, num_cpus=100).build(ENVS, 0)
    with pytest.raises(UserError, match="NoSuch-v0"):
        RemoteCollectorConfig(num=2).build(ENVS._replace(env="NoSuch-v0"), 0)


def test_a_full_object_store_is_told_in_a_sentence(cluster: Any, policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def full(value: Any) -> Any:
        raise ray.exceptions.OutOfDiskError("Local disk is full")

    remote = RemoteCollector(RemoteCollectorConfig(num=1, num_cpus=0.25), ENVS, seed=0)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(ray, "put", full)
            patched.setattr("cluster.collect.object_store.SMALL_BYTES", 0)
            with pytest.raises(Failure, match="object store is full, and so is the disk"):
                remote.collect(policy, 8)
        remote.fleet.actors[0].__ray_call__.remote(
            lambda self: setattr(self, "failure", ray.exceptions.OutOfDiskError("Local disk is full"))
        )
        with pytest.raises(Failure, match="object store is full, and so is the disk"):
            remote.collect(policy, 8)
    finally:
        remote.close()


def test_weights_arrive_as_they_were_sent() -> None:
    torch.manual_seed(0)
    kinds = (torch.float32, torch.int64, torch.bool, torch.bfloat16, torch.float64, torch.uint8)
    sent = {str(kind): (9 * torch.rand(3, i)).to(kind) for i, kind in enumerate(kinds)} | {"": torch.tensor(7)}
    sent["channels last"] = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    received = {name: torch.zeros_like(value) for name, value in sent.items()}
    places = [value.data_ptr() for value in received.values()]
    Parcel(received).unpack(Parcel(sent).pack(sent).tobytes(), received)
    assert all(torch.equal(value, received[name]) for name, value in sent.items())
    assert places == [value.data_ptr() for value in received.values()]


def test_whole_episodes_of_different_length_are_joined(policy: Any) -> None:
    rollouts = [local(i).collect(policy, 200, whole_episodes=True) for i in range(3)]
    joined = join(rollouts)
    assert joined.reward.shape == (max(len(r.reward) for r in rollouts), 6)
    assert joined.num_env_steps == sum(r.num_env_steps for r in rollouts)
    assert joined.episodes == [episode for r in rollouts for episode in r.episodes]
    assert all(isinstance(episode, Episode) for episode in joined.episodes)
    for i, rollout in enumerate(rollouts):
        part = slice(2 * i, 2 * i + 2)
        assert torch.equal(joined.obs[: len(rollout.reward), part], rollout.obs)  # type: ignore[index]
        assert not joined.valid[len(rollout.reward) :, part].any()


class Unpackable(Exception):
    """Has a constructor that pickle cannot call."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def test_errors_reach_the_learner_in_a_sentence() -> None:
    for error in (ValueError("plain"), UserError("a sentence")):
        assert portable(error) is error
    try:
        raise Unpackable("the pole", "broke")
    except Unpackable as error:
        travelled = portable(error)
    assert str(travelled).startswith("a collector raised Unpackable: the pole broke (test_collectors.py, line ")
    assert str(pickle.loads(pickle.dumps(travelled))) == str(travelled)


def test_a_collector_that_hangs_is_replaced_and_then_told(cluster: Any, policy: Any) -> None:
    """A process's start does not count: it takes longer than this timeout."""
    settings = RemoteCollectorConfig(num=1, num_cpus=0.25, timeout_seconds=1.5)
    remote = RemoteCollector(settings, ENVS, seed=7)
    try:
        remote.collect(policy, 8)
        for actor in remote.fleet.actors:
            actor.__ray_call__.remote(lambda self: time.sleep(20))
        remote.collect(policy, 8)  # by another one
        assert remote.fleet.restarts == 1

        def hang(actor: Any) -> None:
            actor.collector.envs.step = lambda actions: time.sleep(20)

        begin = remote.fleet._begin

        def begin_and_hang(index: int) -> None:
            begin(index)
            remote.fleet.actors[index].__ray_call__.remote(hang)

        remote.fleet._begin = begin_and_hang  # type: ignore[method-assign]
        remote.fleet.actors[0].__ray_call__.remote(hang)
        with pytest.raises(
            Failure, match=r"gave no rollout within data\.collector\.timeout_seconds=1\.5, 3 times: CartPole-v1 hangs"
        ):
            remote.collect(policy, 8)
    finally:
        remote.close()
