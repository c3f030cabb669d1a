"""All checks of an experiment, each on networks of its own; what is trained for good is left untouched."""

from __future__ import annotations

import torch

from lab.config.overrides import override
from lab.diagnostics.activations import check_activations
from lab.diagnostics.finding import Finding
from lab.diagnostics.gradient_check import check_gradients
from lab.diagnostics.inputs import check_inputs, check_mode, network_inputs, probes
from lab.diagnostics.supervised import (
    NUM_BY_HEART,
    NUM_SAMPLES,
    check_by_heart,
    check_first_loss,
    check_softmax,
    first_loss_of_text,
    split_sample,
)
from lab.diagnostics.updates import check_missing_gradients, check_rates
from lab.diagnostics.warm_up import warm_up
from lab.experiment import Experiment
from lab.supervised.language_model import LanguageModel
from lab.supervised.supervised import Supervised
from lab.training.learner import Learner
from lab.training.train import seed_everything
from lab.training.transfer import begin_backbones

_ALONE = ("trainer.device=cpu", "trainer.num_workers=1", "trainer.min_workers=null")


def examine(experiment: Experiment) -> list[Finding]:
    """Check an experiment on the CPU; the findings stand in the order of causes, so that the first wrong one counts.

    Raises UserError where the experiment itself is not valid.
    """
    experiment = override(experiment, _ALONE)
    seed_everything(experiment.seed)
    data = experiment.data.build(experiment.seed)

    def fresh() -> Learner:
        torch.manual_seed(experiment.seed)
        learner: Learner = experiment.module.build(data.spec)
        learner.fit_to(data)
        begin_backbones(learner)
        return learner

    try:
        learner = fresh()
        supervised = isinstance(learner, Supervised)
        filling = learner.task.filling if isinstance(learner, Supervised) else 0
        samples = split_sample(data, NUM_SAMPLES, filling) if supervised else None
        few = split_sample(data, NUM_BY_HEART, filling) if supervised else None
        about_inputs = [
            check_inputs(network_inputs(learner, data)),
            check_softmax(learner, samples),
            check_mode(learner, probes(learner, data)),
        ]
        first_loss = check_first_loss(fresh(), samples)
        by_heart = check_by_heart(fresh(), few)
        trained = warm_up(experiment, data, learner)
        if isinstance(learner, LanguageModel):
            first_loss = first_loss_of_text(trained)
        return [
            *about_inputs,
            check_gradients(trained),
            check_rates(trained),
            check_activations(trained),
            check_missing_gradients(trained),
            first_loss,
            by_heart,
        ]
    finally:
        data.close()
