"""The gradient check: centred differences of the loss in double precision against the gradient that is followed.

|a - n| / max(|a| + |n|, tiny)        a: the updater's gradient, n: (f(w + h) - f(w - h)) / 2h
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lab.diagnostics.finding import Finding, not_applicable
from lab.diagnostics.replay import Replay
from lab.diagnostics.warm_up import WarmUp

NAME = "gradient check"
WRONG, GOOD = 1e-2, 1e-7
"""relative errors: from the first on a gradient is wrong; kinks (ReLU, maxima) leave up to about 1e-4"""
_STEPS = (1e-5, 1e-7)
"""h: the second where the first gives another slope, in case a kink lies between"""
_TINY = 1e-6
"""gradients below that, of a loss of 1, cannot be told from rounding"""
_EVALUATIONS = 240
_MOST_EACH = 4
"""coordinates of one tensor"""
_SECONDS = 5.0


def relative_error(a: float, n: float, tiny: float = _TINY) -> float:
    """|a - n| / max(|a| + |n|, tiny); infinite where one is not finite."""
    error = abs(a - n) / max(abs(a) + abs(n), tiny)
    return error if math.isfinite(error) else math.inf


def slope_error(
    value: Callable[[], float], here: float, parameter: Tensor, index: int, analytic: float
) -> tuple[float, float]:
    """The relative error of a gradient at the coordinate `index` of the flat tensor, and the slope by differences.

    `value` gives the loss, which is `here` now. At a kink the gradient is one side's, and either is right.
    """
    weights, place = parameter.data, tuple(torch.unravel_index(torch.tensor(index), parameter.shape))
    start = float(weights[place])
    tiny, best = _TINY * max(1.0, abs(here)), (math.inf, math.nan)
    for step in _STEPS:
        sides = []
        for sign in (-1, 1):
            weights[place] = start + sign * step
            sides.append(value())
        weights[place] = start
        left, right = (here - sides[0]) / step, (sides[1] - here) / step
        centred = (sides[1] - sides[0]) / (2 * step)
        error = relative_error(analytic, centred, tiny)
        if error > WRONG:
            error = min(error, relative_error(analytic, left, tiny), relative_error(analytic, right, tiny))
        best = min(best, (error, centred), key=lambda pair: pair[0])
        if best[0] <= WRONG:
            break
    return best if math.isfinite(best[0]) else (math.inf, centred)


def check_gradients(warm_up: WarmUp) -> Finding:
    """The gradient of every updater, at a few coordinates of every parameter tensor."""
    worst, numbers, without = (0.0, ""), dict[str, float](), []
    for name, record in warm_up.records.items():
        with _double_precision():
            replay = Replay(warm_up.learner, name, record, double=True)
            if replay.loss is None:
                without.append(name)
                continue
            try:
                error, about, count = _worst(replay)
            except RuntimeError as problem:
                return not_applicable(NAME, f"the loss cannot be computed in double precision: {problem}")
        numbers |= {f"{name}/largest_relative_error": error, f"{name}/coordinates": float(count)}
        worst = max(worst, (error, about))
    if not numbers:
        why = (
            "gradients are stopped, or passed on, on purpose: they are no function's"
            if without
            else "nothing is updated by a gradient"
        )
        return not_applicable(NAME, why)
    if worst[0] > WRONG:
        return Finding(NAME, "wrong", worst[1], numbers)
    good = "all right" if worst[0] < GOOD else "right, but for kinks and rounding"
    return Finding(NAME, "ok", f"gradients are {good}: the largest relative error is {worst[0]:.1e}", numbers)


def _worst(replay: Replay) -> tuple[float, str, int]:
    """The largest relative error, a sentence about it, and how many coordinates were looked at."""
    gradients, here, worst, count = replay.gradients(), replay.value(), (0.0, ""), 0
    end = time.perf_counter() + _SECONDS
    for number, index in _coordinates(gradients):
        analytic = float(gradients[number].reshape(-1)[index])
        error, slope = slope_error(replay.value, here, replay.updater.parameters[number], index, analytic)
        count += 1
        if error > worst[0]:
            name = replay.updater.names[number]
            sentence = (
                f"the gradient of {name} is {analytic:.3g} where differences of the loss give {slope:.3g}; look at "
                f"backward functions that are written by hand, and at what is detached on the way from {name} to the "
                f"loss"
            )
            worst = error, sentence
        if time.perf_counter() > end:
            break
    return *worst, count


def _coordinates(gradients: list[Tensor]) -> Iterator[tuple[int, int]]:
    """(tensor, place) pairs: of each tensor in turn first where its gradient is largest, then places at random."""
    generator = torch.Generator().manual_seed(0)
    each = min(_MOST_EACH, max(1, _EVALUATIONS // (2 * len(gradients))))
    places = [
        [int(g.abs().argmax()), *torch.randint(g.numel(), (each - 1,), generator=generator).tolist()]
        for g in (gradient.reshape(-1) for gradient in gradients)
    ]
    for turn in range(each):
        yield from ((number, row[turn]) for number, row in enumerate(places))


@contextmanager
def _double_precision() -> Iterator[None]:
    """New tensors are in double precision within."""
    before: Any = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
