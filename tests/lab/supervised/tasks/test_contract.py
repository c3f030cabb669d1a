"""What every task promises. A new task gets an example in `EXAMPLES`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from lab.backbones import BackboneConfig
from lab.backbones.features import FeatureSpec
from lab.data.images import ImageData, ImageModule
from lab.data.targets import Classes, MultiLabel, RealValues
from lab.engine.optimizers import OptimizerConfig
from lab.experiment import Experiment, TrackingConfig, TrainerConfig
from lab.export import export
from lab.supervised.supervised import Supervised, SupervisedConfig
from lab.supervised.tasks import (
    ClassificationConfig,
    MultiLabelConfig,
    RegressionConfig,
    Task,
    TaskConfig,
)
from lab.training.train import train

K = 4


class Example(NamedTuple):
    """A task, a target, and targets (N, ...) that follow from the brightest of four corners of an image."""

    config: TaskConfig
    target: Any
    y: Any


CORNER = np.random.default_rng(0).integers(0, K, 400)
EXAMPLES = {
    "classification": Example(ClassificationConfig(), Classes(K, ("a", "b", "c", "d"), (100,) * 4), CORNER),
    "classification-weighted": Example(
        ClassificationConfig(class_weights=(1, 2, 0.5, 1), label_smoothing=0.05, top_k=(2,)),
        Classes(K, ("a", "b", "c", "d")),
        CORNER,
    ),
    **{
        f"classification-{loss}": Example(ClassificationConfig(loss=loss), Classes(K), CORNER)
        for loss in ("hinge", "squared")
    },
    "multi_label": Example(
        MultiLabelConfig(), MultiLabel(("top", "left")), np.stack([CORNER < 2, CORNER % 2 == 0], 1).astype(int)
    ),
    "multi_label-hinge": Example(
        MultiLabelConfig(loss="hinge"), MultiLabel(("top", "left")), np.stack([CORNER < 2, CORNER % 2 == 0], 1) * 2 - 1
    ),
    **{
        f"regression-{loss}": Example(
            RegressionConfig(loss=loss),
            RealValues(("x", "y"), (100.0, 0.0), (3.0, 1.0)),
            np.stack([CORNER % 2 * 6.5 + 97, CORNER // 2 - 0.5], 1),
        )
        for loss in ("l2", "l1", "smooth_l1", "binned")
    },
}
each_task = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES.keys())


def images() -> Any:
    x = np.random.default_rng(1).integers(0, 60, (len(CORNER), 8, 8), dtype=np.uint8)
    for i, corner in enumerate(CORNER):
        top, left = corner // 2 * 4, corner % 2 * 4
        x[i, top : top + 4, left : left + 4] += 150
    return x


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corners")
    for name, example in EXAMPLES.items():
        y = example.y
        np.savez(folder / f"{name}.npz", x_train=images(), y_train=y, x_test=images()[:60], y_test=y[:60])
    return folder


def experiment(name: str, folder: Path, budget: int = 16_000) -> Experiment:
    return Experiment(
        name=name,
        data=ImageData(name=str(folder / f"{name}.npz"), batch_size=32, batches_per_step=5),
        module=SupervisedConfig(
            backbone=BackboneConfig("mlp", hidden=(32,)), task=EXAMPLES[name].config, optimizer=OptimizerConfig(lr=3e-3)
        ),
        trainer=TrainerConfig(budget=budget, eval_period=budget // 2, num_threads=1, device="cpu"),
        tracking=TrackingConfig(mode="disabled"),
    )


def parts(example: Example) -> tuple[Task, torch.Tensor, torch.Tensor]:
    """The task, outputs (B, ...) of random features, and targets of a batch."""
    torch.manual_seed(0)
    task = example.config.build(example.target, FeatureSpec("vector", ((6,),)))
    y = torch.as_tensor(example.y[:40])
    if isinstance(example.target, MultiLabel):
        y = (y > 0).float()
    kinds = {Classes: torch.int64, MultiLabel: torch.float32, RealValues: torch.float64}
    return task, task(torch.randn(40, 6)), y.to(kinds[type(example.target)])


@each_task
def test_a_loss_is_a_mean_with_a_gradient_of_every_parameter(example: Example) -> None:
    task, outputs, y = parts(example)
    loss, metrics, _ = task.loss(outputs, y)
    loss.backward()
    assert loss.shape == ()
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in task.parameters())
    halves = [task.loss(outputs[half], y[half]).value for half in (slice(20), slice(20, 40))]
    torch.testing.assert_close(torch.stack(halves).mean(), loss)  # so that two workers learn what one does


@each_task
def test_scores_of_a_split_are_the_same_in_pieces(example: Example) -> None:
    task, outputs, y = parts(example)
    predictions = task.predictions(outputs)
    whole, pieces = task.scores(), task.scores()
    whole.update(predictions, y)
    for piece in torch.arange(40).split(7):
        pieces.update(predictions[piece], y[piece])
    one, other = whole.compute(), pieces.compute()
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert float(value) == pytest.approx(float(other[name]), rel=1e-5), name
    names = {f"eval/{name}" for name in (*task.per_sample(outputs, y), *one)}
    assert task.monitor.metric in names


@each_task
def test_a_prediction_that_is_right_scores_best(example: Example) -> None:
    """Outputs that the loss pulls to the truth: nothing is wrong any more, and nothing stays drawn as a mistake."""
    task, outputs, y = parts(example)
    outputs = outputs.detach().requires_grad_()
    optimizer = torch.optim.Adam([outputs], 0.3)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 300)
        optimizer.zero_grad()
        task.loss(outputs, y).value.backward()
        optimizer.step()
    with torch.no_grad():
        predictions = task.predictions(outputs)
        answers, truths = task.answers(predictions), task.truths(y)
        table = task.table(predictions, y)
    assert len(answers) == len(truths) == 40
    if isinstance(example.target, RealValues):
        torch.testing.assert_close(predictions, y, atol=0.05, rtol=0)
        assert all(row["r2"] > 0.99 for row in table.values())
    else:
        assert [answer.label for answer in answers] == truths
        assert all(row["f1"] == 1 for row in table.values())
        assert sum(row["samples"] for row in table.values()) == (y.sum() if y.dim() > 1 else 40)
    for image in task.draw(predictions, y).values():
        assert image.dtype == np.uint8
        assert image.ndim == 3


@each_task
def test_outputs_follow_from_predictions(example: Example) -> None:
    """So the mean of several models' predictions is scored as one model's are."""
    task, outputs, _ = parts(example)
    with torch.no_grad():
        predictions = task.predictions(outputs)
        torch.testing.assert_close(task.predictions(task.outputs_of(predictions)), predictions, rtol=1e-4, atol=1e-5)
    assert task.meaning


@each_task
def test_a_single_sample_can_be_judged(example: Example) -> None:
    task, outputs, y = parts(example)
    with torch.no_grad():
        predictions = task.predictions(outputs[:1])
        assert all(value.shape == (1,) for value in task.per_sample(outputs[:1], y[:1]).values())
        task.answers(predictions)
        task.table(predictions, y[:1])
        scores = task.scores()
        scores.update(predictions, y[:1])
        assert all(value.isfinite() for value in scores.compute().values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classification", "multi_label", "regression-l2"])
def test_it_learns_in_half_precision(name: str, folder: Path, tmp_path: Path) -> None:
    given = experiment(name, folder)
    trainer = given.trainer.model_copy(update={"precision": "bf16"})
    run = train(given.model_copy(update={"trainer": trainer}), run_dir=tmp_path / "run")
    assert run.metrics[run.run.result()["monitor"]["metric"]] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_it_learns_resumes_exactly_and_exports(name: str, folder: Path, tmp_path: Path) -> None:
    whole = train(experiment(name, folder), run_dir=tmp_path / "whole")
    score = whole.metrics[whole.run.result()["monitor"]["metric"]]
    assert score > 0.95
    part = train(experiment(name, folder, 8000), run_dir=tmp_path / "part")
    longer = train(experiment(name, folder), resume=part.run)
    states = [torch.load(run.last, weights_only=True)["state_dict"] for run in (whole.run, longer.run)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])

    data = experiment(name, folder).data.build(0)
    module = experiment(name, folder).module.build(data.spec)
    module.load_state_dict(states[0])
    what = module.eval().exportable(data)
    assert max(export(what, tmp_path / "export")["largest_difference"].values()) < 1e-4
    batch = next(iter(data.batches("test")))
    with torch.no_grad():
        torch.testing.assert_close(what.network(batch.x), module.judge(data, "test").predictions)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_worst_mistakes_are_drawn_first(name: str, folder: Path) -> None:
    data = experiment(name, folder).data.build(0)
    module = experiment(name, folder).module.build(data.spec).eval()
    assert isinstance(module, Supervised)
    assert isinstance(data, ImageModule)
    judged = module.judge(data, "val")
    batches = list(data.batches("val", 500))
    (batch,) = batches
    with torch.no_grad():
        wrong = list(module.task.per_sample(module.net(batch.x), batch.y).values())[-1]
    order = wrong.argsort(descending=True)[: len(judged.worst)]
    assert wrong[judged.worst].tolist() == wrong[order].tolist()
    assert torch.equal(judged.worst_x, batch.x[judged.worst])
    pictures = module.pictures(data)
    assert pictures["mistakes"].ndim == 3
