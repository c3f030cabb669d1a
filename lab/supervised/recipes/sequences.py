"""Recipes of models that read sequences."""

from __future__ import annotations

from lab.backbones import BackboneConfig
from lab.data.language.sequences import SequenceData
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.experiment import Experiment, TrainerConfig
from lab.supervised.embedding import EmbeddingConfig
from lab.supervised.supervised import SupervisedConfig
from lab.supervised.tasks import ClassificationConfig, DecodingConfig, RegressionConfig, TaggingConfig

FAMILY = "sequence"

_COSINE = ScheduleConfig(name="cosine")


def sentiment_gru() -> Experiment:
    """A GRU from both ends tells praise from blame in sentences of reviews of films, from LAB_DATA: 76.2 % on test.

    Three seeds: 75.8, 76.5, 76.3; each in a minute on a core.
    """
    return Experiment(
        name="sequence/sentiment-gru",
        data=SequenceData(name="rt-polarity", batch_size=32),
        module=SupervisedConfig(
            task=ClassificationConfig(dropout=0.5),
            embedding=EmbeddingConfig(size=128, dropout=0.5, unknown=0.1),
            backbone=BackboneConfig(name="bidirectional", cell="gru", hidden=64),
            pooling="max",
            optimizer=OptimizerConfig(lr=2e-3, max_grad_norm=1.0, schedule=_COSINE),
        ),
        trainer=TrainerConfig(budget=60_000),
    )


def parts_of_speech() -> Experiment:
    """A bidirectional LSTM over words and letters tells parts of speech of LinES, from LAB_DATA: 95.6 % on test.

    One seed, in 4 minutes on a core.
    """
    return Experiment(
        name="sequence/parts-of-speech",
        data=SequenceData(name="ud-english-lines", characters=16, batch_size=16),
        module=SupervisedConfig(
            task=TaggingConfig(dropout=0.3),
            embedding=EmbeddingConfig(size=100, dropout=0.3, unknown=0.1),
            backbone=BackboneConfig(name="bidirectional", cell="lstm", hidden=128),
            optimizer=OptimizerConfig(lr=3e-3, max_grad_norm=1.0, schedule=_COSINE),
        ),
        trainer=TrainerConfig(budget=70_000),
    )


def copy_20() -> Experiment:
    """A GRU that repeats ten symbols after 20 blanks, without a file."""
    return Experiment(
        name="sequence/copy-20",
        data=SequenceData(name="copy-20", batch_size=32),
        module=SupervisedConfig(
            task=TaggingConfig(),
            embedding=EmbeddingConfig(size=16),
            backbone=BackboneConfig(name="gru", hidden=128),
            optimizer=OptimizerConfig(lr=2e-3, max_grad_norm=1.0, schedule=_COSINE),
        ),
        trainer=TrainerConfig(budget=200_000),
    )


def adding_100() -> Experiment:
    """A GRU that adds up the two marked ones of 100 numbers, without a file: R2 0.99 on test (one seed), 2 minutes."""
    return Experiment(
        name="sequence/adding-100",
        data=SequenceData(name="adding-100", batch_size=32),
        module=SupervisedConfig(
            task=RegressionConfig(),
            backbone=BackboneConfig(name="gru", hidden=64),
            optimizer=OptimizerConfig(lr=2e-3, max_grad_norm=1.0, schedule=_COSINE),
        ),
        trainer=TrainerConfig(budget=100_000),
    )


def reversed_words() -> Experiment:
    """Words told from their ends, by a GRU with attention, without a file."""
    return Experiment(
        name="sequence/reversed-words",
        data=SequenceData(name="reversed", batch_size=32),
        module=SupervisedConfig(
            task=DecodingConfig(backbone=BackboneConfig(name="gru", hidden=64), embedding=32),
            embedding=EmbeddingConfig(size=32),
            backbone=BackboneConfig(name="bidirectional", cell="gru", hidden=32),
            optimizer=OptimizerConfig(lr=4e-3, max_grad_norm=1.0, schedule=_COSINE),
        ),
        trainer=TrainerConfig(budget=60_000),
    )


def translation() -> Experiment:
    """German captions in English: a bidirectional GRU and a GRU with attention on Multi30k, from LAB_DATA."""
    return Experiment(
        name="sequence/translation",
        data=SequenceData(name="multi30k-de-en", batch_size=64, least=2, longest=50, batches_per_step=4),
        module=SupervisedConfig(
            task=DecodingConfig(
                backbone=BackboneConfig(name="gru", hidden=256), embedding=256, dropout=0.4, label_smoothing=0.1
            ),
            embedding=EmbeddingConfig(size=256, dropout=0.4),
            backbone=BackboneConfig(name="bidirectional", cell="gru", hidden=256),
            optimizer=OptimizerConfig(lr=1e-3, max_grad_norm=1.0, schedule=_COSINE),
        ),
        trainer=TrainerConfig(budget=400_000),
    )
