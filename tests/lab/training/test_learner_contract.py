"""What every Learner promises, of whatever kind: see each test's name. A new kind gets an example in `EXAMPLES`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from lab import catalog
from lab.config import recipes, serialization
from lab.config.overrides import override, resolve
from lab.diagnostics.gradient_check import check_gradients
from lab.diagnostics.warm_up import warm_up
from lab.errors import UserError
from lab.experiment import Experiment, ModuleConfig
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.evaluation import evaluating
from lab.training.learner import Learner
from lab.training.restore import restore
from lab.training.train import Result, train

pytestmark = pytest.mark.slow


class Example(NamedTuple):
    """A recipe that trains a few chunks in seconds."""

    recipe: str
    overrides: tuple[str, ...]
    updates: Callable[[int, int], int]
    """updates after so many samples (or environment steps) and chunks"""
    samples: int | None = None
    """in a chunk; None: environment steps, which the rollouts tell"""
    chunks: int = 4
    """of a whole run; with one alone, the run that is stopped is so before its end"""
    exact: bool = True
    """whether a resumed run has the bits of one that was never stopped"""
    marks: tuple[pytest.MarkDecorator, ...] = ()


IMAGES = ("data.batch_size=16", "data.batches_per_step=2")
EXAMPLES = (
    Example("classifier/digits-cnn", IMAGES, lambda n, _: n // 16, 32),
    Example("classifier/digits-lstm", IMAGES, lambda n, _: n // 16, 32),
    Example(
        "multi-label/digits",
        (*IMAGES, "module.backbone.channels=[4,4]", "data.transforms.crop=2", "data.transforms.cutmix=1"),
        lambda n, _: n // 16,
        32,
    ),
    Example("baseline/digits-knn", (), lambda n, _: n // 1_297, 1_297, chunks=1),
    Example(
        "sequence/copy-20",
        ("module.backbone.hidden=16", "data.batch_size=8", "data.batches_per_step=2"),
        lambda n, _: n // 8,
        16,
    ),
    Example(
        "sequence/reversed-words",
        (
            "module.task.attention=additive",
            "module.task.teacher_forcing=0.5",
            "data.batch_size=8",
            "data.batches_per_step=2",
        ),
        lambda n, _: n // 8,
        16,
    ),
    Example("regression/diabetes", ("data.batch_size=16", "data.batches_per_step=2"), lambda n, _: n // 16, 32),
    Example(
        "lm/reference-gru",
        (
            "module.backbone.hidden=32",
            "data.batch_size=8",
            "data.window=16",
            "data.batches_per_step=2",
            "data.validation=0.01",
            "data.test=0.01",
        ),
        lambda n, _: n // (8 * 16),
        2 * 8 * 16,
    ),
    Example(
        "dqn/cartpole",
        ("data.num_envs=2", "data.learning_starts=32", "module.batch_size=16"),
        lambda n, _: n // 2,
    ),
    Example(
        "recurrent-q/cartpole-positions",
        (
            "data.num_envs=2",
            "data.num_steps=64",
            "data.learning_starts=64",
            "module.batch_size=4",
            "module.sequence_length=8",
            "module.burn_in=4",
            "module.updates_per_env_step=0.0625",
        ),
        lambda n, _: n // 16,
    ),
    Example("q-learning/taxi", ("data.num_steps=100",), lambda n, _: n),
    Example("pg/cartpole", ("data.num_envs=4", "data.num_steps=32"), lambda _, chunks: chunks),
    Example(
        "pg/variance",
        ("data.num_envs=4", "data.num_steps=32", "module.study_episodes=16", "module.group_sizes=[2,4]"),
        lambda _, chunks: chunks,
    ),
    Example(
        "ppo/cartpole",
        ("data.num_envs=4", "data.num_steps=32", "data.rounds=1", "module.epochs=3", "module.minibatch_size=32"),
        lambda _, chunks: chunks * 3 * 4 * 32 // 32,
    ),
    Example(
        "impala/cartpole",
        ("data.num_envs=4", "data.num_steps=8", "data.rounds=2", "module.staleness=1"),
        lambda _, chunks: 2 * chunks - 1,
    ),
    Example(
        "bc/cartpole",
        ("data.path=DEMONSTRATIONS", "data.batch_size=8", "data.batches_per_step=4"),
        lambda n, _: n // 8,
        32,
    ),
    Example("autoencoder/digits", IMAGES, lambda n, _: n // 16, 32),
    Example("vae/digits", IMAGES, lambda n, _: n // 16, 32),
    Example("hierarchical-vae/digits", IMAGES, lambda n, _: n // 16, 32),
    Example("helmholtz/digits", IMAGES, lambda n, _: n // 16, 32),
    Example("vq-vae/digits", IMAGES, lambda n, _: n // 16, 32),
    Example("gan/digits", IMAGES, lambda n, _: n // 16, 32),
    Example(
        "pixelcnn/digits",
        ("data.batch_size=16", "data.batches_per_step=1", "module.backbone.channels=8", "module.backbone.layers=2"),
        lambda n, _: n // 16,
        16,
    ),
    Example(
        "rllib/ppo-cartpole",
        ("module.backbone.hidden=[16]",),
        lambda _, chunks: chunks,
        exact=False,  # RLlib keeps its environments to itself
        marks=(pytest.mark.cluster,),
    ),
)
COMMON = ("trainer.num_threads=1", "trainer.log_period=1", "tracking.mode=disabled")


class Watch(Callback):
    """Ends a run after a number of chunks (0: in the first); keeps what each gave, and counts steps and episodes."""

    def __init__(self, chunks: int) -> None:
        self.left = chunks
        self.metrics: list[dict[str, Any]] = []
        self.counters: list[dict[str, int]] = []
        self.steps = self.episodes = 0

    def ends(self, loop: Any) -> None:
        self.loop = loop

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        collector = getattr(trainer.datamodule, "collector", None)
        if collector is None:
            return
        collect = collector.collect

        def counted(*arguments: Any, **options: Any) -> Any:
            rollout = collect(*arguments, **options)
            self.steps += int(rollout.valid.sum())
            self.episodes += int((rollout.valid & (rollout.terminated | rollout.truncated)).sum())
            return rollout

        collector.collect = counted

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        if self.left == 0:
            self.loop.ask_to_stop()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.metrics.append(dict(outputs))
        self.counters.append(dict(pl_module.counters))


class Trained(NamedTuple):
    """An example after its chunks at one go, and after two halves of them."""

    example: Example
    experiment: Experiment
    whole: Result
    watch: Watch
    resumed: Result
    watches: tuple[Watch, Watch]


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of CartPole."""
    from agents.envs.make import InProcessEnvs, make_env
    from agents.play.demonstrations import EpisodeRecorder

    folder = tmp_path_factory.mktemp("demonstrations") / "cartpole"
    envs = InProcessEnvs([lambda: make_env("CartPole-v1")])
    recorder = EpisodeRecorder(folder, "CartPole-v1", {}, envs.spec, "test")
    obs, left = envs.reset(0), 2
    while left:
        action = (obs[:, 2] + obs[:, 3] > 0).astype(np.int64)  # type: ignore[index, call-overload]
        step = envs.step(action)
        recorder.add(obs, action, step)
        left -= int(step.terminated[0] or step.truncated[0])
        obs = step.obs
    envs.close()
    return folder


@pytest.fixture(
    scope="module", params=[pytest.param(example, id=example.recipe, marks=example.marks) for example in EXAMPLES]
)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    example: Example = request.param
    if pytest.mark.cluster in example.marks:
        request.getfixturevalue("cluster")
    words = [*COMMON, *example.overrides]
    if "data.path=DEMONSTRATIONS" in words:
        words[words.index("data.path=DEMONSTRATIONS")] = f"data.path={request.getfixturevalue('demonstrations')}"
    experiment = resolve(example.recipe, words)
    folder = tmp_path_factory.mktemp("learner")

    def run(chunks: int, **where: Any) -> tuple[Result, Watch]:
        watch = Watch(chunks)
        return train(experiment, **where, callbacks=[watch], on_loop=watch.ends), watch

    half = example.chunks // 2
    whole, watch = run(example.chunks, run_dir=folder / "whole")
    first = Watch(half)
    with nullcontext() if half else pytest.raises(KeyboardInterrupt):
        train(experiment, run_dir=folder / "halved", callbacks=[first], on_loop=first.ends)
    assert Run.open(folder / "halved").result()["status"] == "interrupted"
    resumed, second = run(example.chunks - half, resume=Run.open(folder / "halved"))
    return Trained(example, experiment, whole, watch, resumed, (first, second))


@pytest.fixture(scope="module")
def restored(trained: Trained) -> Any:
    """The module, evaluated, with its data; what it measured; what it drew."""
    _, data, module, _ = restore(trained.whole.run, "last")
    with evaluating(module, 0):
        yield data, module, module.evaluate(data), module.pictures(data)
    data.close()


def test_every_kind_has_an_example() -> None:
    """Kinds stand beside their recipes, so that making every recipe imports them all."""
    for name in catalog.scan().recipes:
        recipes.find(name)
    kinds = {recipes.find(example.recipe)().module.kind for example in EXAMPLES}
    for config in _below(ModuleConfig):
        kind = config.model_fields["kind"].default
        assert not isinstance(kind, str) or not config.__module__.startswith(catalog.PACKAGES) or kind in kinds, (
            f"module.kind={kind!r} ({config.__module__}) has no example: name one of its recipes in EXAMPLES, "
            f"with overrides that let it train a chunk in less than a second."
        )


def _below(config: type[ModuleConfig]) -> Iterator[type[ModuleConfig]]:
    for subclass in config.__subclasses__():
        yield subclass
        yield from _below(subclass)


def test_a_config_comes_back_from_yaml(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(serialization.to_yaml(trained.experiment), encoding="utf-8")
    assert serialization.load(path) == trained.experiment == trained.whole.run.experiment()


def test_what_is_followed_is_the_gradient_of_its_loss(trained: Trained) -> None:
    """By differences; or `descended` says that it is no function's."""
    data = trained.experiment.data.build(0)
    module = trained.experiment.module.build(data.spec)
    try:
        finding = check_gradients(warm_up(trained.experiment, data, module, num_updates=3))
    finally:
        data.close()
    assert finding.verdict in ("ok", "not applicable"), finding.sentence


def test_each_chunk_gives_finite_losses_and_charts(trained: Trained) -> None:
    rows = trained.watch.metrics
    assert len(rows) == trained.example.chunks
    assert any(key.startswith("losses/") for row in rows for key in row)
    for row in rows:
        for key, value in row.items():
            assert key.startswith(("losses/", "charts/", "monitors/")), key
            assert math.isfinite(float(value)), (key, value)
            assert not isinstance(value, Tensor) or not value.requires_grad, key


def test_counters_count_what_they_say(trained: Trained) -> None:
    example, watch = trained.example, trained.watch
    for chunks, counters in enumerate(watch.counters, 1):
        count = counters["samples" if example.samples else "env_steps"]
        assert count == (example.samples * chunks if example.samples else count)
        assert counters["updates"] == example.updates(count, chunks)
    last = watch.counters[-1]
    if example.samples is None and example.exact:
        assert (last["env_steps"], last["episodes"]) == (watch.steps, watch.episodes)
    assert {key: trained.whole.run.result()[key] for key in last} == last


def rows_without_clock(run: Run) -> list[dict[str, Any]]:
    """The metrics of a run but for what the clock says."""
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "pictures") and "per_second" not in key}
        for row in run.metrics()
    ]


def test_a_run_stopped_halfway_and_resumed_is_the_run_that_was_never_stopped(trained: Trained) -> None:
    """Half of the chunks, a checkpoint, a restore in a fresh module, the other half: as all chunks at one go."""
    whole, resumed = trained.whole, trained.resumed
    assert resumed.status == whole.status
    first, second = trained.watches
    assert len(first.counters) == trained.example.chunks // 2
    counts = [counters["updates"] for counters in (*first.counters, *second.counters)]
    assert counts == sorted(counts)
    if not trained.example.exact:
        return
    assert [*first.counters, *second.counters] == trained.watch.counters
    weights = [checkpoint.load(result.run.checkpoint("last"))["state_dict"] for result in (whole, resumed)]
    assert list(weights[0]) == list(weights[1])
    for key in weights[0]:
        assert torch.equal(weights[0][key], weights[1][key]), key
    assert rows_without_clock(whole.run) == rows_without_clock(resumed.run)


def test_diagnostics_change_nothing(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be there none, or a close look at an update of each chunk, before each evaluation."""
    if not trained.example.exact:
        return
    monkeypatch.setattr("lab.training.health.health._UPDATES", 1)
    monkeypatch.setattr("lab.training.health.health._CLOSELY", 1)
    expected = checkpoint.load(trained.whole.run.checkpoint("last"))["state_dict"]
    for words in (["trainer.diagnostics=false"], ["trainer.eval_period=1"]):
        watch = Watch(4)
        experiment = override(trained.experiment, words)
        run = train(experiment, run_dir=tmp_path / words[0], callbacks=[watch], on_loop=watch.ends).run
        weights = checkpoint.load(run.checkpoint("last"))["state_dict"]
        for name, value in expected.items():
            assert torch.equal(value, weights[name]), (words, name)
    _, _, module, _ = restore(run, "last")
    seen = {name.partition("/")[0] for row in run.metrics() for name in row.get("histograms", {})}
    assert ("weights" in seen) == bool(module.updaters)


def test_recorded_updates_are_those_of_autograd_or_are_refused(trained: Trained, tmp_path: Path) -> None:
    ends = {}
    _, _, module, _ = restore(trained.whole.run, "last")
    for engine in ("traced", "eager"):
        watch = Watch(trained.example.chunks)
        experiment = override(trained.experiment, [f"trainer.engine={engine}"])
        if engine not in module.engines:
            with pytest.raises(UserError, match=r"trainer.engine='traced' .* Valid choices: auto, eager\."):
                train(experiment, run_dir=tmp_path / engine)
            return
        try:
            result = train(experiment, run_dir=tmp_path / engine, callbacks=[watch], on_loop=watch.ends)
        except UserError as error:
            assert str(error).endswith("use trainer.engine=eager.")  # noqa: PT017
            return
        ends[engine] = checkpoint.load(result.run.checkpoint("last"))["state_dict"]
    for name, value in ends["eager"].items():
        if value.is_floating_point() and trained.example.exact:
            apart = (ends["traced"][name] - value).norm() / (1e-3 + value.norm())
            assert apart < 1e-3, (name, apart)


def test_what_was_saved_comes_back(trained: Trained, restored: Any) -> None:
    _, module, _, _ = restored
    content = checkpoint.load(trained.whole.run.checkpoint("last"))
    assert serialization.validate(content["experiment"]) == trained.experiment
    assert content["counters"] == trained.watch.counters[-1]
    for name, value in module.state_dict().items():
        assert torch.equal(value, content["state_dict"][name]), name


def test_an_evaluation_has_the_metric_that_is_watched(restored: Any) -> None:
    _, module, metrics, _ = restored
    assert module.monitor.metric in metrics
    for key, value in metrics.items():
        assert key.startswith("eval/"), key
        assert isinstance(value, float), key
        assert math.isfinite(value), (key, value)


def test_pictures_are_images_of_bytes(restored: Any) -> None:
    for name, image in restored[3].items():
        assert image.dtype == np.uint8, name
        assert image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3), (name, image.shape)
        assert image.size > 0, name


def test_what_is_exportable_takes_any_number_of_rows(restored: Any) -> None:
    """A network of tensors, whose rows do not depend on each other; or None."""
    data, module, _, _ = restored
    assert isinstance(module, Learner)
    what = module.exportable(data)
    if what is None:
        return
    inputs = tuple(t / 4 if t.is_floating_point() else t for t in what.draw(3))  # a state may hold an action's number
    outputs = _tensors(what.network(*inputs))
    assert len(outputs) == len(what.outputs)
    axes = [each.batch_axis for each in what.inputs.values()]
    alone = _tensors(what.network(*(t.narrow(axis, 1, 1) for t, axis in zip(inputs, axes, strict=True))))
    for together, one in zip(outputs, alone, strict=True):
        (axis,) = [i for i, (m, n) in enumerate(zip(together.shape, one.shape, strict=True)) if m != n]
        assert (together.shape[axis], one.shape[axis]) == (3, 1)
        assert together.isfinite().all()
        torch.testing.assert_close(together.narrow(axis, 1, 1), one, atol=1e-5, rtol=1e-4)


def _tensors(outputs: Any) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
