"""Auxiliary heads: their losses are weighed and added while a network learns; nothing else knows of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from lab.backbones import BackboneConfig
from lab.config.overrides import resolve
from lab.data.resident import Batch
from lab.data.spec import DataSpec, TensorSpec
from lab.data.targets import Classes
from lab.supervised.supervised import Supervised, SupervisedConfig
from lab.training.train import train

SPEC = DataSpec(TensorSpec((3, 32, 32)), target=Classes(4))


def module(**options: float) -> Supervised:
    torch.manual_seed(0)
    return SupervisedConfig(backbone=BackboneConfig("googlenet", dropout=0.0), **options).build(SPEC)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_loss_is_that_of_all_heads() -> None:
    learner = module().eval()
    batch = Batch(torch.rand(3, 3, 32, 32), torch.arange(3))
    net = learner.net.features.backbone.net
    x, inner = batch.x, []
    for index, layer in enumerate(net):
        x = layer(x)
        if index in net.auxiliary:
            inner.append(x)
    expected = F.cross_entropy(learner.task(x), batch.y)
    for head, each in zip(learner.auxiliary, inner, strict=True):
        expected = expected + 0.3 * F.cross_entropy(head(each), batch.y)
    loss = learner.loss(batch)
    torch.testing.assert_close(loss.value, expected)
    torch.testing.assert_close(loss.metrics["cross_entropy"], F.cross_entropy(learner.net(batch.x), batch.y))
    assert len(learner.auxiliary) == 2
    assert not module(auxiliary_weight=0.0).auxiliary


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["eager", "traced"])
def test_googlenet_trains_and_its_heads_with_it(engine: str, tmp_path: Path) -> None:
    words = ["module.backbone.name=googlenet", f"trainer.engine={engine}", "trainer.budget=384", "data.batch_size=64"]
    experiment = resolve("classifier/digits-cnn", [*words, "data.batches_per_step=3", "tracking.mode=disabled"])
    run = train(experiment, run_dir=tmp_path / "run").run
    state = torch.load(run.last, weights_only=True)["state_dict"]
    learner = experiment.module.build(experiment.data.build(0).spec)
    torch.manual_seed(0)
    assert any(name.startswith("auxiliary.1.") for name in state)
    fresh = learner.state_dict()
    assert not torch.equal(state["auxiliary.1.task.head.weight"], fresh["auxiliary.1.task.head.weight"])
