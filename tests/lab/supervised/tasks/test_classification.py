"""Classification: weights, ranks and scores by hand and by scikit-learn; what does not fit is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lab.backbones.features import FeatureSpec
from lab.config.overrides import resolve
from lab.data.targets import Classes
from lab.errors import UserError
from lab.supervised.tasks.classification import Classification, ClassificationConfig

FEATURES = FeatureSpec("vector", ((5,),))
TARGET = Classes(3, ("a", "b", "c"), (60, 30, 0))


def task(**options: Any) -> Classification:
    return ClassificationConfig(**options).build(TARGET, FEATURES)


@pytest.mark.slow
def test_weights_multiply_losses_and_balanced_ones_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    torch.manual_seed(0)
    logits, y = torch.randn(20, 3), torch.arange(20) % 3
    for smoothing in (0.0, 0.1):
        value = task(class_weights=(1, 0.2, 3), label_smoothing=smoothing).loss(logits, y).value
        weight = torch.tensor([1, 0.2, 3])
        whole = F.cross_entropy(logits, y, weight, label_smoothing=smoothing)  # torch divides by the sum of weights
        torch.testing.assert_close(value, whole * weight[y].sum() / len(y))
    balanced = ClassificationConfig(class_weights="balanced").build(Classes(2, (), (60, 30)), FEATURES).weight
    classes = np.repeat([0, 1], [60, 30])
    assert balanced is not None
    assert balanced.tolist() == pytest.approx(compute_class_weight("balanced", classes=np.unique(classes), y=classes))
    absent = task(class_weights="balanced").weight
    assert absent is not None
    assert absent[2] == 0  # a class that training lacks


def test_a_minibatch_of_weightless_classes_has_no_loss() -> None:
    weighted, y = task(class_weights=(1, 0, 1)), torch.ones(4, dtype=torch.int64)
    outputs = torch.randn(4, 3, requires_grad=True)
    value = weighted.loss(outputs, y).value
    value.backward()
    assert value == 0
    assert outputs.grad is not None
    assert (outputs.grad == 0).all()


def test_scores_are_those_of_scikit_learn() -> None:
    from sklearn import metrics

    torch.manual_seed(0)
    logits, y = torch.randn(300, 3) * 2, torch.randint(0, 3, (300,))
    each = task(top_k=(2,))
    p = each.predictions(logits)
    scores = each.scores()
    scores.update(p, y)
    predicted = p.argmax(1)
    assert float(scores.compute()["f1"]) == pytest.approx(metrics.f1_score(y, predicted, average="macro"))
    means = {name: float(value.double().mean()) for name, value in each.per_sample(logits, y).items()}
    assert means["accuracy"] == pytest.approx(metrics.accuracy_score(y, predicted))
    assert means["top2_accuracy"] == pytest.approx(metrics.top_k_accuracy_score(y, p, k=2))
    assert means["cross_entropy"] == pytest.approx(metrics.log_loss(y, p.double().numpy()), rel=1e-5)
    table = each.table(p, y)
    by_class = metrics.precision_recall_fscore_support(y, predicted)
    for i, name in enumerate("abc"):
        assert list(table[name].values()) == pytest.approx([float(column[i]) for column in by_class], rel=1e-6)
    assert torch.equal(each._confusion(p, y), torch.as_tensor(metrics.confusion_matrix(y, predicted)))


def test_the_calibration_error_is_that_of_its_definition() -> None:
    """Guo et al. 2017, equation 3: of 15 bins of confidence, the mean of |accuracy - confidence| by their sizes."""
    torch.manual_seed(1)
    logits, y = torch.randn(500, 3) * 3, torch.randint(0, 3, (500,))
    each = task()
    p, scores = each.predictions(logits), each.scores()
    scores.update(p, y)
    confidence, right = p.max(1).values.double(), (p.argmax(1) == y).double()
    bins = (confidence * 15).long().clamp(max=14)
    expected = sum(
        (bins == b).double().mean() * (right[bins == b].mean() - confidence[bins == b].mean()).abs()
        for b in bins.unique()
    )
    assert float(scores.compute()["calibration_error"]) == pytest.approx(float(expected), abs=1e-5)


def test_answers_name_the_most_probable_classes() -> None:
    (answer,) = task().answers(torch.tensor([[0.2, 0.7, 0.1]]))
    assert answer.label == "b"
    assert list(answer.details["probabilities"]) == ["b", "a", "c"]
    assert answer.details["probability"] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("target", "options", "part"),
    [
        (Classes(1), {}, "at least two classes"),
        (TARGET, {"class_weights": (1, 2)}, "module.task.class_weights=[1.0, 2.0] is not valid: there are 3 classes"),
        (TARGET, {"class_weights": (0, 0, 0)}, "one of them more than 0"),
        (Classes(3), {"class_weights": "balanced"}, "how frequent their classes are"),
        (TARGET, {"top_k": (3,)}, "module.task.top_k=[3] is not valid"),
    ],
)
def test_what_does_not_fit_is_one_sentence(target: Classes, options: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError) as error:
        ClassificationConfig(**options).build(target, FEATURES)
    assert part in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["data.kind=text", "data.name=python-reference"], "needs images or rows of numbers"),
        (["module.task.kind=regression"], "module.task.kind='regression' predicts RealValues; these data hold Classes"),
    ],
)
def test_other_data_are_refused(overrides: list[str], part: str) -> None:
    experiment = resolve("classifier/digits-cnn", overrides)
    with pytest.raises(UserError) as error:
        experiment.module.build(experiment.data.build(0).spec)
    assert part in str(error.value)


def test_features_are_dropped_while_it_learns() -> None:
    torch.manual_seed(0)
    task = ClassificationConfig(dropout=0.5).build(Classes(3), FeatureSpec("vector", ((1000,),)))
    features = torch.ones(1, 1000)
    assert not torch.equal(task(features), task(features))
    task.eval()
    torch.testing.assert_close(task(features), task.head(features))
