"""What updates do: whether every parameter gets a gradient, and by how much weights change."""

from __future__ import annotations

import math

import torch

from lab.diagnostics.finding import Finding, not_applicable
from lab.diagnostics.warm_up import WarmUp
from lab.training.health.updates import judge_ratio, rate_sentence, typical_ratio

GRADIENTS, RATE = "gradients", "update to weight"
_MOST_NAMED = 3


def check_missing_gradients(warm_up: WarmUp) -> Finding:
    """Parameters that no loss depends on, weights whose gradient is always 0, and gradients that are not finite.

    Of a vector 0 may be right: a Wasserstein critic's last bias cancels.
    """
    if not warm_up.records:
        return not_applicable(GRADIENTS, "nothing is updated by a gradient")
    unused, zero, strange, num = [], [], [], 0
    for record in warm_up.records.values():
        num += len(record.names)
        unused += record.unused
        if not len(record.largest):  # a second-order optimizer asks for gradients by itself
            continue
        for name, shape, largest in zip(record.names, record.shapes, record.largest.tolist(), strict=True):
            if not math.isfinite(largest):
                strange.append(name)
            elif largest == 0 and len(shape) > 1 and name not in record.unused:
                zero.append(name)
    counts = {"parameters": num, "unused": len(unused), "zero": len(zero), "not_finite": len(strange)}
    numbers = {name: float(count) for name, count in counts.items()}
    if strange:
        sentence = f"the gradient of {_names(strange)} is not finite; lower the rate, or clip (optimizer.max_grad_norm)"
    elif zero:
        sentence = (
            f"the gradient of {_names(zero)} was 0 in every update: units behind it are dead or saturated, or its "
            f"branch is cut"
        )
    elif unused:  # the gradient check tells whether the loss depends on it all the same
        sentence = f"{_names(unused)} gets no gradient at all: its branch is detached, or never used"
        return Finding(GRADIENTS, "warning", sentence, numbers)
    else:
        return Finding(GRADIENTS, "ok", f"all weights get a finite gradient ({num} tensors)", numbers)
    return Finding(GRADIENTS, "wrong", sentence, numbers)


def check_rates(warm_up: WarmUp) -> Finding:
    """|change| / |weights| of an update, the median over each updater's matrices; about 1e-3 is usual."""
    numbers: dict[str, float] = {}
    sentences = []
    for name, record in warm_up.records.items():
        if not record.ratios:
            continue
        mean = torch.stack(record.ratios).nanmean(0)
        matrices = torch.tensor([len(shape) > 1 for shape in record.shapes])
        ratio = float(typical_ratio(mean[matrices]))
        if math.isnan(ratio):
            continue
        numbers[name] = ratio
        numbers |= {f"{name}/{each}": value for each, value in zip(record.names, mean.tolist(), strict=True)}
        if judge_ratio(ratio) is not None:
            sentences.append(rate_sentence(name, record.rate, ratio))
    if not numbers:
        return not_applicable(RATE, "no weights were changed by a gradient step")
    if sentences:
        return Finding(RATE, "wrong", "; ".join(sentences), numbers)
    told = ", ".join(f"{numbers[name]:.1e} ({name})" for name in warm_up.records if name in numbers)
    return Finding(RATE, "ok", f"an update changes weights by {told} of their norm", numbers)


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
