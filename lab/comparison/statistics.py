"""Statistics of few runs: point estimates with stratified bootstrap intervals.

Definitions of Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS 2021),
as their library rliable computes them. A stratum is one task; its runs are resampled among themselves.

K strata, n_k runs in stratum k, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Statistic = Callable[[Array], Array]
"""(..., n) -> (...): reduces the last axis, which holds the runs"""

RESAMPLES = 2000
CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A point estimate and its interval; `low` and `high` are None where one run cannot give any."""

    value: float
    low: float | None
    high: float | None


def mean(scores: Array) -> Array:
    """The mean over the last axis."""
    return np.asarray(scores.mean(axis=-1))


def median(scores: Array) -> Array:
    """The median over the last axis."""
    return np.asarray(np.median(scores, axis=-1))


def interquartile_mean(scores: Array) -> Array:
    """The mean over the last axis of what is left when the lowest and the highest quarter (rounded down) are cut."""
    count = scores.shape[-1]
    cut = count // 4
    return np.asarray(np.sort(scores, axis=-1)[..., cut : count - cut].mean(axis=-1))


def bootstrap(strata: Sequence[Array], resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """Stratified resamples of K arrays (n_k,) or (..., n_k): (R, ..., sum of n_k)."""
    generator = np.random.default_rng(seed)
    parts = []
    for scores in strata:
        count = scores.shape[-1]
        indices = generator.integers(count, size=(resamples, count))  # (R, n_k)
        parts.append(np.moveaxis(scores[..., indices], -2, 0))  # (..., R, n_k) -> (R, ..., n_k)
    return np.concatenate(parts, axis=-1)


def interval(samples: Array, confidence: float = CONFIDENCE) -> tuple[Array, Array]:
    """The percentile interval over the first axis of bootstrapped statistics (R, ...)."""
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(samples, [tail, 100.0 - tail], axis=0)
    return low, high


def estimate(strata: Sequence[Array], statistic: Statistic, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """A statistic of all runs of K strata (n_k,), with its stratified bootstrap interval."""
    value = float(statistic(np.concatenate(list(strata), axis=-1)))
    if all(scores.shape[-1] < 2 for scores in strata):
        return Estimate(value, None, None)
    low, high = interval(statistic(bootstrap(strata, resamples, seed)))
    return Estimate(value, float(low), float(high))


def probability_of_improvement(
    ours: Sequence[Array], theirs: Sequence[Array], resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """P(a run of ours scores higher than a run of theirs), ties counted half, averaged over tasks.

    It is the Mann-Whitney statistic divided by n * m. Both sides list the same tasks in the same order, (n_k,) each.
    """
    value = float(np.mean([_wins(x, y) for x, y in zip(ours, theirs, strict=True)]))
    if all(len(x) < 2 and len(y) < 2 for x, y in zip(ours, theirs, strict=True)):
        return Estimate(value, None, None)
    samples = np.mean(
        [
            _wins(bootstrap([x], resamples, seed + 2 * k), bootstrap([y], resamples, seed + 2 * k + 1))
            for k, (x, y) in enumerate(zip(ours, theirs, strict=True))
        ],
        axis=0,
    )  # (R,)
    low, high = interval(samples)
    return Estimate(value, float(low), float(high))


def performance_profile(strata: Sequence[Array], thresholds: Array) -> Array:
    """The share of runs that score above each threshold, (T,): the mean over tasks of each task's share."""
    shares = [(scores[:, None] > thresholds).mean(axis=0) for scores in strata]
    return np.asarray(np.mean(shares, axis=0))


def _wins(x: Array, y: Array) -> Array:
    """How often x (..., n) is above y (..., m): (...)."""
    difference = x[..., :, None] - y[..., None, :]
    return np.asarray(((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-2, -1)))
