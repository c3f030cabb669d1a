"""Recipes of baselines. The budget is the number of samples that they are fitted to, once each.

Seconds are those of a processor core, with the imports. The words of a codebook and the folds of a cross-validation
depend on the seed, nothing else.
"""

from __future__ import annotations

from lab.data.images import ImageData
from lab.data.tables import TableData
from lab.experiment import Experiment, TrainerConfig
from lab.supervised.baselines.features import ColourHistogramConfig
from lab.supervised.baselines.hog import HogConfig
from lab.supervised.baselines.kernel_svm import RBFSVMConfig
from lab.supervised.baselines.learner import BaselineConfig
from lab.supervised.baselines.linear import LeastSquaresConfig, SoftmaxConfig
from lab.supervised.baselines.neighbours import NearestNeighboursConfig
from lab.supervised.baselines.visual_words import VisualWordsConfig
from lab.supervised.preprocessing import PreprocessingConfig


def digits_svm() -> Experiment:
    """An RBF SVM on the pixels of the embedded 8x8 digits: 99.3 % test accuracy in 4 s on a core."""
    return Experiment(
        name="baseline/digits-svm",
        data=ImageData(name="digits"),
        module=BaselineConfig(model=RBFSVMConfig(gamma=0.256)),
        trainer=TrainerConfig(budget=1_297),
    )


def digits_knn() -> Experiment:
    """The nearest neighbours of the embedded 8x8 digits: 98.7 % test accuracy in 3 s on a core."""
    return Experiment(
        name="baseline/digits-knn",
        data=ImageData(name="digits"),
        module=BaselineConfig(model=NearestNeighboursConfig()),
        trainer=TrainerConfig(budget=1_297),
    )


def diabetes_ridge() -> Experiment:
    """Ridge regression on the table of diabetes: R2 0.42 (test, mean of 8 splits) in 5 s on a core."""
    return Experiment(
        name="baseline/diabetes-ridge",
        data=TableData(name="diabetes"),
        module=BaselineConfig(model=LeastSquaresConfig(l2=30.0)),
        trainer=TrainerConfig(budget=310),
    )


def fashion_softmax() -> Experiment:
    """Softmax regression on the pixels of Fashion-MNIST from LAB_DATA: 84.5 % test accuracy in a minute on a core."""
    return Experiment(
        name="baseline/fashion-softmax",
        data=ImageData(name="fashion-mnist", validation=1 / 12),
        module=BaselineConfig(model=SoftmaxConfig(C=0.1)),
        trainer=TrainerConfig(budget=55_000),
    )


def fashion_knn() -> Experiment:
    """The nearest neighbours of Fashion-MNIST's pixels, from LAB_DATA: 85.1 % test accuracy (k=7) in 30 s on a core."""
    return Experiment(
        name="baseline/fashion-knn",
        data=ImageData(name="fashion-mnist", validation=1 / 12),
        module=BaselineConfig(model=NearestNeighboursConfig()),
        trainer=TrainerConfig(budget=55_000),
    )


def fashion_hog_svm() -> Experiment:
    """An RBF SVM on 100 principal components of Fashion-MNIST's HOG: 90.5 % test accuracy in 137 s on a core."""
    return Experiment(
        name="baseline/fashion-hog-svm",
        data=ImageData(name="fashion-mnist", validation=1 / 12),
        module=BaselineConfig(
            features=HogConfig(cell=4, block=2),
            preprocessing=PreprocessingConfig(name="pca", components=100),
            model=RBFSVMConfig(C=10.0),
        ),
        trainer=TrainerConfig(budget=55_000),
    )


def cifar_words() -> Experiment:
    """Least squares on visual words of 3,000 images of CIFAR-10: 55.5 % test accuracy (3 seeds), 17 s on a core."""
    return Experiment(
        name="baseline/cifar-words",
        data=ImageData(name="cifar10-subset"),
        module=BaselineConfig(
            features=VisualWordsConfig(words=400, encoding="triangle", grid=2),
            preprocessing=PreprocessingConfig(name="z_score"),
            model=LeastSquaresConfig(l2=300.0),
        ),
        trainer=TrainerConfig(budget=2_700),
    )


def cifar_colours() -> Experiment:
    """An RBF SVM on colour histograms of 3,000 images of CIFAR-10: 37.8 % test accuracy in 8 s on a core."""
    return Experiment(
        name="baseline/cifar-colours",
        data=ImageData(name="cifar10-subset"),
        module=BaselineConfig(
            features=ColourHistogramConfig(bins=8, grid=2),
            preprocessing=PreprocessingConfig(name="z_score"),
            model=RBFSVMConfig(),
        ),
        trainer=TrainerConfig(budget=2_700),
    )
