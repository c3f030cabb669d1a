"""Recipes of baselines. The budget is the number of samples that they are fitted to, once each."""

from __future__ import annotations

from lab.data.images import ImageData
from lab.data.tables import TableData
from lab.experiment import Experiment, TrainerConfig
from lab.supervised.baselines.kernel_svm import RBFSVMConfig
from lab.supervised.baselines.learner import BaselineConfig
from lab.supervised.baselines.linear import LeastSquaresConfig
from lab.supervised.baselines.neighbours import NearestNeighboursConfig


def digits_svm() -> Experiment:
    """An RBF SVM on the pixels of the embedded 8x8 digits."""
    return Experiment(
        name="baseline/digits-svm",
        data=ImageData(name="digits"),
        module=BaselineConfig(model=RBFSVMConfig()),
        trainer=TrainerConfig(budget=1_297),
    )


def digits_knn() -> Experiment:
    """The nearest neighbours of the embedded 8x8 digits."""
    return Experiment(
        name="baseline/digits-knn",
        data=ImageData(name="digits"),
        module=BaselineConfig(model=NearestNeighboursConfig()),
        trainer=TrainerConfig(budget=1_297),
    )


def diabetes_ridge() -> Experiment:
    """Ridge regression on the table of diabetes."""
    return Experiment(
        name="baseline/diabetes-ridge",
        data=TableData(name="diabetes"),
        module=BaselineConfig(model=LeastSquaresConfig(l2=10.0)),
        trainer=TrainerConfig(budget=310),
    )
