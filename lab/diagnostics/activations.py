"""What flows through a network: dead rectified units, saturated sigmoids and tanhs, outputs that vanish."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from lab.diagnostics.finding import Finding, Verdict, not_applicable
from lab.diagnostics.replay import Replay
from lab.diagnostics.warm_up import WarmUp
from lab.training.dead_units import MANY, DeadUnits

NAME = "activations"
_SATURATED = 0.97
"""|tanh|, or |2 sigmoid - 1|, from which on the slope is below a sixteenth of the largest one"""
_HALF = 0.5
_VANISHED = 1e-5
"""root of the mean square of a layer's outputs"""


class Outputs:
    """Shares of saturated outputs, and sizes of layers' outputs, by layer, while a module was watched."""

    def __init__(self) -> None:
        self.saturated: dict[str, float] = {}
        self.sizes: dict[str, float] = {}

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Watch the module's forward passes within."""
        handles = []
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Sigmoid | nn.Tanh):
                handles.append(layer.register_forward_hook(partial(self._see_bounded, name)))
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
                handles.append(layer.register_forward_hook(partial(self._see_size, name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see_bounded(self, name: str, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        centred = output if isinstance(layer, nn.Tanh) else 2 * output - 1
        share = float((centred.detach().abs() > _SATURATED).double().mean())
        self.saturated[name] = min(share, self.saturated.get(name, 1.0))

    def _see_size(self, name: str, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        self.sizes[name] = max(float(output.detach().square().mean().sqrt()), self.sizes.get(name, 0.0))


def check_activations(warm_up: WarmUp) -> Finding:
    """Look at all layers on a minibatch of each updater after the warm-up."""
    dead, outputs = DeadUnits(), Outputs()
    for name, record in warm_up.records.items():
        replay = Replay(warm_up.learner, name, record)
        with dead.watching(replay.learner), outputs.watching(replay.learner):
            replay.value()
    numbers = {name.removeprefix("eval/"): value for name, value in dead.metrics().items()}
    numbers |= {f"{name}/saturated": value for name, value in outputs.saturated.items()}
    numbers |= {f"{name}/size": value for name, value in outputs.sizes.items()}
    if not numbers:
        return not_applicable(NAME, "there are no layers of which a unit can be dead or saturated")
    verdict, sentence = _judge(dead, outputs)
    return Finding(NAME, verdict, sentence, numbers)


def _judge(dead: DeadUnits, outputs: Outputs) -> tuple[Verdict, str]:
    warning = dead.warning("of a minibatch")
    if warning is not None:
        return "wrong", warning
    worst = max(outputs.saturated, key=outputs.saturated.__getitem__, default=None)
    if worst is not None and outputs.saturated[worst] > _HALF:
        verdict: Verdict = "wrong" if outputs.saturated[worst] > MANY else "warning"
        return verdict, (
            f"{outputs.saturated[worst]:.0%} of the outputs of {worst} are saturated, where the slope is nearly 0; "
            f"try smaller weights (module.backbone.init), inputs of about 1, or a lower rate"
        )
    vanished = [name for name, size in outputs.sizes.items() if size < _VANISHED]
    if vanished:
        return "warning", (
            f"the outputs of {vanished[0]} are nearly 0 ({outputs.sizes[vanished[0]]:.1e}), and so are gradients "
            f"through it; try larger weights (module.backbone.init), or batch normalisation"
        )
    share = dead.metrics().get("eval/dead_units")
    told = "" if share is None else f"{share:.0%} of the rectified units are dead, "
    return "ok", f"{told}no layer is saturated or vanishes"
