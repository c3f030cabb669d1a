"""Runs on several ranks are those of one process: two processes on this machine against one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lab.config.overrides import resolve
from lab.data.resident import ShuffledOrder
from lab.errors import UserError
from lab.experiment import Experiment
from lab.ranks import ranks
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.train import train
from tests.lab.ranks.several import stop_after, train_on_ranks

CHUNKS = {"gan": 4}
"""those that are stopped, so that no evaluation has to train its measure"""
HALVED = {"lm": 3, "a2c": 1, "dqn": 4}
GROWN = ("lm", "dqn")
COMMON = ["trainer.num_threads=1", "trainer.log_period=1", "tracking.mode=disabled", "trainer.engine=eager"]
SMALL = {
    "vae": ["vae/digits", "trainer.budget=1280", "data.batch_size=64", "data.batches_per_step=5"],
    "gan": ["gan/digits", "trainer.budget=1000000", "data.batches_per_step=5"],
    "lm": [
        "lm/reference-gru",
        "trainer.budget=2048",
        "module.backbone.hidden=16",
        "data.batch_size=8",
        "data.window=16",
        "data.batches_per_step=2",
        "data.validation=0.001",
        "data.test=0.001",
    ],
    "classifier": [
        "classifier/digits-cnn",
        "trainer.budget=1280",
        "data.batches_per_step=5",
        "data.transforms={crop: 1, rotate: 5, cutout: 2, mixup: 0.4}",
        "module.backbone.dropout=0",
        "module.task.class_weights=balanced",
    ],
    "regression": ["regression/diabetes", "trainer.budget=1280", "data.batches_per_step=5", "module.task.loss=binned"],
    "multi-label": [
        "multi-label/digits",
        "trainer.budget=640",
        "data.batches_per_step=5",
        "data.num_train=500",
        "module.backbone={name: lenet}",
    ],
    "tags": ["sequence/copy-20", "trainer.budget=640", "data.batches_per_step=5", "module.backbone.hidden=16"],
    "sentences": ["sequence/reversed-words", "trainer.budget=640", "data.batches_per_step=5"],
    "a2c": ["pg/a2c-cartpole", "trainer.budget=1024", "data.num_envs=8", "data.rounds=4", "module.optimizer.lr=1e-3"],
    "dqn": ["dqn/cartpole", "trainer.budget=2000", "data.num_envs=4", "data.learning_starts=200", "data.rounds=4"],
}


def experiment_of(name: str, num_workers: int = 1) -> Experiment:
    recipe, *overrides = SMALL[name]
    return resolve(recipe, [*COMMON, f"trainer.num_workers={num_workers}", *overrides])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Every small experiment on two ranks; `-halved` are stopped on two, `-grown` began in one process."""
    folder = tmp_path_factory.mktemp("two")
    jobs = [(experiment_of(name, 2), folder / name, CHUNKS.get(name, 0)) for name in SMALL]
    jobs.append((experiment_of("vae", 2), folder / "vae-stopped", 2))
    jobs.append((experiment_of("vae", 2), folder / "vae-stopped", 0))
    jobs += [(experiment_of(name, 2), folder / f"{name}-halved", chunks) for name, chunks in HALVED.items()]
    for name in GROWN:
        train(experiment_of(name), run_dir=folder / f"{name}-grown", on_loop=stop_after(HALVED[name]))
        jobs.append((experiment_of(name, 2), folder / f"{name}-grown", 0))
    train_on_ranks(2, jobs)
    return {path.name: Run(path) for _, path, _ in jobs}


def weights(run: Run) -> dict[str, torch.Tensor]:
    return checkpoint.load(run.checkpoint("last"))["state_dict"]


def losses(run: Run) -> list[dict[str, float]]:
    """Each row's, but for the spread within a minibatch, which is a rank's own."""
    return [
        {k: v for k, v in row.items() if k.startswith(("losses/", "eval/")) and "spread" not in k}
        for row in run.metrics()
    ]


def assert_same(one: Run, other: Run, tolerance: float = 1e-3) -> None:
    """The same metrics, row by row. (Adam makes a step of noise where a gradient is 0 but for rounding, as before a
    batch normalisation: such weights may differ, and nothing else does for it.)"""
    assert len(one.metrics()) == len(other.metrics())
    for row, same in zip(losses(one), losses(other), strict=True):
        assert same == pytest.approx(row, rel=tolerance, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "gan", "lm", "classifier", "regression", "multi-label", "tags", "sentences"])
def test_two_ranks_compute_what_one_process_computes(name: str, two: dict[str, Run], tmp_path: Path) -> None:
    """Noise and batch normalisation included: the same losses and weights but for the order of sums."""
    alone = train(experiment_of(name), run_dir=tmp_path / "alone", on_loop=stop_after(CHUNKS.get(name, 0))).run
    assert_same(alone, two[name])
    counters = [checkpoint.load(run.checkpoint("last"))["counters"] for run in (alone, two[name])]
    assert counters[0] == counters[1]


class _Joined:
    """Two ranks' collectors as one: the oracle of an agent's experience on two ranks."""

    def __init__(self, collectors: list[Any]) -> None:
        self.collectors, self.spec = collectors, collectors[0].spec
        self.num_envs = sum(collector.num_envs for collector in collectors)

    def collect(self, *arguments: Any, **options: Any) -> Any:
        from cluster.collect.collectors import join

        return join([collector.collect(*arguments, **options) for collector in self.collectors])

    def statistics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


@pytest.mark.slow
def test_an_agent_on_two_ranks_learns_what_one_learns_from_both_ranks_experience(
    two: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agents.envs.make import make_envs
    from agents.experience.collector import LocalCollector, LocalCollectorConfig
    from lab.seeding import derive_seed

    def build(self: Any, envs: Any, seed: int) -> Any:
        half = envs.num_envs // 2
        return _Joined(
            [
                LocalCollector(make_envs(envs.env, half, envs.options), derive_seed(seed, "collector", rank))
                for rank in range(2)
            ]
        )

    monkeypatch.setattr(LocalCollectorConfig, "build", build)
    alone = train(experiment_of("a2c"), run_dir=tmp_path / "alone").run
    assert_same(alone, two["a2c"])
    assert alone.result()["env_steps"] == two["a2c"].result()["env_steps"]


@pytest.mark.slow
def test_one_run_is_written(two: dict[str, Run]) -> None:
    """One row at a time, one checkpoint with the state of every rank, one result that counts for all."""
    for name in SMALL:
        run = two[name]
        rows, result = run.metrics(), run.result()
        counts = [row[result["counter"]] for row in rows]
        assert counts == sorted(counts)
        assert result["workers"] == 2
        assert result["status"] == ("interrupted" if name in CHUNKS else "completed")
        assert name in CHUNKS or result[result["counter"]] >= result["budget"]
        content = checkpoint.load(run.checkpoint("last"))
        assert len(content["ranks"]) == 1
    assert sorted(path.name for path in two["dqn"].path.glob("replay*")) == ["replay-1-of-2", "replay-2-of-2"]
    assert not list(two["vae"].path.glob("wandb*"))


@pytest.mark.slow
def test_updates_of_an_off_policy_agent_are_owed_by_the_steps_of_all(two: dict[str, Run]) -> None:
    experiment, result = experiment_of("dqn"), two["dqn"].result()
    learned_on = result["env_steps"] - experiment.data.learning_starts  # type: ignore[attr-defined]
    owed = learned_on * experiment.module.updates_per_env_step  # type: ignore[attr-defined]
    assert result["updates"] == pytest.approx(owed, rel=0.1)


@pytest.mark.slow
def test_a_stop_that_one_rank_is_asked_for_ends_all_and_loses_nothing(two: dict[str, Run]) -> None:
    """Stopped after two chunks and resumed on two ranks: bit for bit the run that was never stopped."""
    for key, value in weights(two["vae"]).items():
        assert torch.equal(weights(two["vae-stopped"])[key], value), key
    assert losses(two["vae-stopped"]) == losses(two["vae"])


@pytest.mark.slow
@pytest.mark.parametrize("name", HALVED)
def test_a_run_goes_on_with_another_number_of_ranks(name: str, two: dict[str, Run], tmp_path: Path) -> None:
    """Three chunks on two ranks, the rest in one process; a language model's streams go on where they were."""
    run = two[f"{name}-halved"]
    before = run.result()
    assert before["status"] == "interrupted"
    result = train(experiment_of(name), resume=run)
    assert result.status == "completed"
    assert result.run.result()["workers"] == 1
    assert result.run.result()["updates"] > before["updates"]
    if name == "lm":
        assert_same(two["lm"], result.run)


@pytest.mark.slow
@pytest.mark.parametrize("name", GROWN)
def test_a_run_of_one_process_goes_on_with_two_ranks(name: str, two: dict[str, Run]) -> None:
    run = two[f"{name}-grown"]
    assert (run.result()["status"], run.result()["workers"]) == ("completed", 2)
    if name == "lm":
        assert_same(two["lm"], run)
    else:
        assert sorted(path.name for path in run.path.glob("replay*")) == ["replay-1-of-2", "replay-2-of-2"]


def test_ranks_walk_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disjoint shards of one permutation, whose union is the minibatch of one process."""
    cpu = torch.device("cpu")
    alone = ShuffledOrder(50, 12, 3, cpu)
    shards = []
    for rank in range(3):
        order = ShuffledOrder(50, 4, 3, cpu)
        monkeypatch.setattr(ranks, "num_ranks", lambda: 3)
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        shards.append([order.next() for _ in range(9)])
    monkeypatch.undo()
    for i in range(9):
        assert torch.equal(alone.next(), torch.cat([shard[i] for shard in shards]))


def test_a_single_process_is_rank_0_of_1() -> None:
    assert (ranks.rank(), ranks.num_ranks(), ranks.shard(7)) == (0, 1, slice(0, 7))
    assert ranks.rank_seed(5, "replay") == 5


def test_ranks_have_equal_shards_and_seeds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "num_ranks", lambda: 3)
    shards, seeds = [], set()
    for rank in range(3):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        shards.append(ranks.shard(6))
        seeds.add(ranks.rank_seed(5, "replay"))
    assert shards == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert len(seeds) == 3


def test_a_table_has_no_gradients_to_average(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ranks, "num_ranks", lambda: 2)
    monkeypatch.setattr(ranks, "is_joined", lambda: True)
    monkeypatch.setattr(ranks, "rank", lambda: 0)
    with pytest.raises(UserError, match=r"trainer\.num_workers must be 1"):
        train(resolve("q-learning/taxi", ["data.num_envs=2"]), run_dir=tmp_path / "run")


@pytest.mark.slow
def test_what_one_rank_does_alone_sees_no_group(tmp_path: Path) -> None:
    """Others' metrics gather from all ranks where they see a process group."""
    import torch.distributed as dist

    with ranks.joined(f"file://{tmp_path / 'meeting'}", 0, 1):
        assert dist.is_initialized()
        with ranks.alone():
            assert not dist.is_initialized()
            assert (ranks.rank(), ranks.num_ranks()) == (0, 1)
        assert dist.get_world_size() == 1
    assert not dist.is_initialized()
