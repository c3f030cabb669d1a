"""What flows through a network: dead rectified units, saturated sigmoids and tanhs, outputs that vanish."""

from __future__ import annotations

from lab.diagnostics.finding import Finding, Verdict, not_applicable
from lab.diagnostics.replay import Replay
from lab.diagnostics.warm_up import WarmUp
from lab.training.health.dead_units import DeadUnits
from lab.training.health.outputs import Outputs

NAME = "activations"
_HALF = 0.5
_VANISHED = 1e-5
"""root of the mean square of a layer's outputs"""


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
    if outputs.warning() is not None:
        return "wrong", str(outputs.warning())
    if outputs.worst is not None and outputs.saturated[outputs.worst] > _HALF:
        return "warning", str(outputs.saturation())
    vanished = [name for name, size in outputs.sizes.items() if size < _VANISHED]
    if vanished:
        return "warning", (
            f"the outputs of {vanished[0]} are nearly 0 ({outputs.sizes[vanished[0]]:.1e}), and so are gradients "
            f"through it; try larger weights (module.backbone.init), or batch normalisation"
        )
    told = "" if dead.share is None else f"{dead.share:.0%} of the rectified units are dead, "
    return "ok", f"{told}no layer is saturated or vanishes"
