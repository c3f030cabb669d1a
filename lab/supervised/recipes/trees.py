"""Recipes of models that read trees, each with its twin `...-flat`: an LSTM of as many parameters that reads the words
alone, from the first to the last."""

from __future__ import annotations

from lab.backbones import BackboneConfig
from lab.data.language.trees import TreeData
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.experiment import Experiment, TrainerConfig
from lab.supervised.embedding import EmbeddingConfig
from lab.supervised.supervised import SupervisedConfig
from lab.supervised.tasks import ClassificationConfig, TreeTaggingConfig

FAMILY = "tree"

_SENTENCES = EmbeddingConfig(size=300, dropout=0.5)
_TREE, _FLAT = BackboneConfig(name="tree_lstm", hidden=150), BackboneConfig(name="lstm", hidden=185)  # 361, 360 K


def sst() -> Experiment:
    """A Tree-LSTM that tells five sentiments of each phrase of the Stanford Sentiment Treebank, from LAB_DATA."""
    return _sentences("tree/sst", "sst", 8_544)


def sst_flat() -> Experiment:
    """An LSTM on the same sentences and sentiments, without phrases."""
    return _sentences("tree/sst-flat", "sst", 8_544, flat=True)


def sst_2() -> Experiment:
    """A Tree-LSTM that tells praise from blame in phrases of the Stanford Sentiment Treebank, from LAB_DATA."""
    return _sentences("tree/sst-2", "sst-2", 6_920)


def sst_2_flat() -> Experiment:
    """An LSTM on the same sentences, without phrases."""
    return _sentences("tree/sst-2-flat", "sst-2", 6_920, flat=True)


def expressions() -> Experiment:
    """A Tree-LSTM that computes sums, differences and products modulo 5, without a file: 100 % of 2,000 in testing.

    One seed, in 25 s of a core. From roots' values alone (module.task.learns=roots) it has 38 % on validation.
    """
    return _expressions("tree/expressions")


def expressions_flat() -> Experiment:
    """An LSTM on the same expressions, without brackets: 29 % in testing, as many as are 0 (one seed)."""
    return _expressions("tree/expressions-flat", flat=True)


def _sentences(name: str, data: str, sentences: int, *, flat: bool = False) -> Experiment:
    return Experiment(
        name=name,
        data=TreeData(name=data, flat=flat, lower=True, batch_size=25),
        module=SupervisedConfig(
            task=ClassificationConfig(dropout=0.5) if flat else TreeTaggingConfig(dropout=0.5),
            embedding=_SENTENCES,
            backbone=_FLAT if flat else _TREE,
            optimizer=OptimizerConfig(name="adagrad", lr=0.05, weight_decay=1e-4),
        ),
        trainer=TrainerConfig(budget=10 * sentences, eval_period=sentences),
    )


def _expressions(name: str, *, flat: bool = False) -> Experiment:
    backbone = BackboneConfig(name="lstm", hidden=151) if flat else BackboneConfig(name="tree_lstm", hidden=100)
    return Experiment(
        name=name,
        data=TreeData(name="expressions", flat=flat, batch_size=32),
        module=SupervisedConfig(
            task=ClassificationConfig() if flat else TreeTaggingConfig(),
            embedding=EmbeddingConfig(size=32),
            backbone=backbone,
            optimizer=OptimizerConfig(lr=3e-3, max_grad_norm=1.0, schedule=ScheduleConfig(name="cosine")),
        ),
        trainer=TrainerConfig(budget=50_000),
    )
