"""Recipes of models that describe images."""

from __future__ import annotations

from lab.backbones import BackboneConfig
from lab.data.captions import CaptionData
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.experiment import Experiment, TrainerConfig
from lab.supervised.supervised import SupervisedConfig
from lab.supervised.tasks import DecodingConfig

FAMILY = "caption"


def scenes() -> Experiment:
    """A ResNet and an LSTM with additive attention tell which digits lie where, without a file (Xu et al. 2015).

    97.7 % of 2,000 test scenes word for word, BLEU 98.7 (one seed), in 14 minutes on a core.
    """
    return Experiment(
        name="caption/scenes",
        data=CaptionData(name="scenes", batch_size=32),
        module=SupervisedConfig(
            task=DecodingConfig(
                backbone=BackboneConfig("lstm", hidden=128), embedding=32, attention="additive", feeds_context=True
            ),
            backbone=BackboneConfig("resnet_cifar", depth=8),
            optimizer=OptimizerConfig(lr=2e-3, max_grad_norm=1.0, schedule=ScheduleConfig(name="cosine")),
        ),
        trainer=TrainerConfig(budget=250_000),
    )
