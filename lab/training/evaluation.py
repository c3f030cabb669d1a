"""Evaluation that leaves no trace in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from lab.ranks import ranks
from lab.runs import checkpoint
from lab.training.learner import Learner


@contextmanager
def evaluating(module: Learner, seed: int) -> Iterator[None]:
    """Evaluation mode without gradients, with random numbers of its own: training goes on as if it had not been."""
    state, training = checkpoint.rng_state(), module.training
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    module.eval()
    try:
        with torch.no_grad(), ranks.alone():
            yield
    finally:
        module.train(training)
        checkpoint.set_rng_state(state)
