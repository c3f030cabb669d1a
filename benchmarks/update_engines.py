"""An update by plain autograd and as recorded (on a GPU: a CUDA graph), in turn in one process; and on a CPU what each
graph pass is worth: the time of a recorded update without it over the time with all of them.

    python benchmarks/update_engines.py [--quick]

Minibatches lie on the device, which is a GPU if there is one:

zoo        DQN: batch 64 of 4 numbers through two layers of 256, as the SB3 zoo has them on CartPole
wide       DQN: the same through two layers of 1,024
rainbow    DQN: as zoo, with dueling, noisy and categorical heads
nature     DQN: batch 32 of four 84x84 frames through the network of Mnih et al. 2015
ppo        PPO on CartPole: batch 256 through two networks of two layers of 64
pendulum   PPO on Pendulum: continuous actions
a2c        A2C on CartPole
impala     IMPALA on CartPole
vae        a VAE of digits
pixelcnn   a PixelCNN of digits, batch 16

Engines are compared by the clock, passes by the least of the processor's time, against a second recording with all of
them (the row "nothing"). A pass that is worth less than 3 % in every case is not worth its lines.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from form import Benchmark, Pairs, measure_pairs
from rich.console import Console
from rich.table import Table

from agents.algorithms.dqn import DQNConfig
from agents.policies.return_distributions import CategoricalConfig
from agents.types import Transition
from lab.backbones import BackboneConfig
from lab.config.overrides import resolve
from lab.data.spec import DataSpec, Discrete, TensorSpec
from lab.engine import graph_passes
from lab.engine.updater import Updater
from lab.training.train import train

VECTOR = DataSpec(TensorSpec((4,)), actions=Discrete(2))
FRAMES = DataSpec(TensorSpec((4, 84, 84), torch.uint8, 0, 255), actions=Discrete(6))
RAINBOW: dict[str, Any] = {"dueling": True, "noisy_sigma": 0.5, "returns": CategoricalConfig(v_max=100.0)}
DQNS: dict[str, tuple[DataSpec, DQNConfig]] = {
    "zoo": (VECTOR, DQNConfig()),
    "wide": (VECTOR, DQNConfig(backbone=BackboneConfig("mlp", hidden=[1024, 1024]))),
    "rainbow": (VECTOR, DQNConfig(**RAINBOW)),
    "nature": (FRAMES, DQNConfig(backbone=BackboneConfig("nature_cnn"), batch_size=32)),
}
RECIPES: dict[str, list[str]] = {
    "ppo": ["ppo/cartpole"],
    "pendulum": ["ppo/pendulum"],
    "a2c": ["pg/a2c-cartpole"],
    "impala": ["impala/cartpole"],
    "vae": ["vae/digits"],
    "pixelcnn": ["pixelcnn/digits", "data.batch_size=16", "trainer.precision=32"],
}
_WORTH = 1.03
_BLOCK_SECONDS = 0.003

Case = tuple[Updater, Any]
"""an updater and a minibatch that it takes"""


class _FirstUpdate(Exception):
    """Ends a run at its first update."""

    def __init__(self, updater: Updater, batch: Any) -> None:
        super().__init__()
        self.case: Case = updater, batch


def of_recipe(recipe: str, *overrides: str) -> Case:
    """The first update of a recipe's run."""

    def step(updater: Updater, batch: Any) -> None:
        raise _FirstUpdate(updater, batch)

    experiment = resolve(recipe, [*overrides, "tracking.mode=disabled", "trainer.num_threads=1"])
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Updater, "step", step):
        try:
            train(experiment, run_dir=Path(folder) / "run")
        except _FirstUpdate as first:
            return first.case
    raise RuntimeError(f"{recipe} made no update")


def of_dqn(spec: DataSpec, config: DQNConfig, device: torch.device) -> Case:
    """A DQN and a minibatch of random transitions."""
    dqn = config.build(spec).to(device)
    shape = (1, config.batch_size)
    assert isinstance(spec.inputs, TensorSpec)
    obs, next_obs = (
        torch.randint(0, 2, (*shape, *spec.inputs.shape), device=device).to(spec.inputs.dtype) for _ in range(2)
    )
    ones = torch.ones(shape, device=device)
    action = torch.randint(dqn.q_network.num_actions, shape, device=device)
    sample = Transition(obs, action, ones, 0.99 * ones, next_obs, ones, torch.zeros_like(action))
    return dqn.updater, next(iter(dqn.minibatches(sample, slice(0, 1))))


def recorded(case: Case, engine: str = "traced", passes: Sequence[graph_passes.Pass] = graph_passes.PASSES) -> Case:
    """The same update by an engine and some graph passes, warm; its steps are too small to change what it computes."""
    updater, batch = case
    config = updater.config.model_copy(update={"lr": 1e-12})
    fresh = Updater(updater.module, updater.loss, config, engine)
    with mock.patch.object(graph_passes, "PASSES", passes):
        for _ in range(5):
            fresh.step(batch)
    return fresh, batch


def seconds_of_update(case: Case, num: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """The mean over `num` updates, waited for."""
    updater, batch = case
    start = clock()
    for _ in range(num):
        metrics, _ = updater.step(batch)
    float(next(iter(metrics.values())))
    return (clock() - start) / num


def compare_engines(case: Case, quick: bool) -> Pairs:
    """Recorded against eager."""
    traced, eager = recorded(case), recorded(case, "eager")
    num = max(5, int((0.2 if quick else 1.0) / seconds_of_update(eager, 5)))
    return measure_pairs(
        lambda: seconds_of_update(traced, num),
        lambda: seconds_of_update(eager, num),
        repeats=5 if quick else 15,
        higher_is_better=False,
    )


def worth_of_passes(case: Case, quick: bool) -> dict[str, float]:
    """For each pass the time without it over the time with all: the minima of blocks of updates, all in turn.

    Without `nothing` is the same as with all, and shows how exact the others are.
    """
    everything = recorded(case)
    variants = {"nothing": recorded(case)}
    for left_out in dict.fromkeys(graph_passes.PASSES):
        others = [one for one in graph_passes.PASSES if one is not left_out]
        variants[left_out.__name__] = recorded(case, passes=others)
    seconds = seconds_of_update(everything, 5)
    num = max(1, int(_BLOCK_SECONDS / seconds))
    rounds = max(5, int((2.0 if quick else 20.0) / (seconds * num * (1 + len(variants)))))
    best = dict.fromkeys(["", *variants], float("inf"))
    for _ in range(rounds):
        for name, variant in {"": everything, **variants}.items():
            best[name] = min(best[name], seconds_of_update(variant, num, time.process_time))
    return {name: best[name] / best[""] for name in variants}


def show_passes(worth: dict[str, dict[str, float]]) -> None:
    """A row for each pass, a column for each case."""
    table = Table(title="time of an update without a pass / with all passes")
    table.add_column("without")
    for name in worth:
        table.add_column(name, justify="right")
    for name in next(iter(worth.values())):
        table.add_row(name, *(f"{ratios[name]:.3f}" for ratios in worth.values()))
    Console(width=140).print(table)


def main() -> None:
    bench = Benchmark("update_engines", __doc__)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cases = {name: of_dqn(*dqn, device) for name, dqn in DQNS.items()}
    cases |= {name: of_recipe(*words) for name, words in RECIPES.items()}
    figures: dict[str, float] = {}
    for name, case in cases.items():
        pairs = compare_engines(case, bench.quick)
        figures |= {
            f"{name}_recorded_microseconds": 1e6 * pairs.lab,
            f"{name}_eager_microseconds": 1e6 * pairs.peer,
            f"{name}_recorded_vs_eager_ratio": pairs.ratio,
        }
    targets: dict[str, float] = {}
    worth: dict[str, dict[str, float]] = {}
    if device.type == "cpu":
        worth = {name: worth_of_passes(case, bench.quick) for name, case in cases.items()}
        show_passes(worth)
        for graph_pass in dict.fromkeys(graph_passes.PASSES):
            key = f"without_{graph_pass.__name__}_largest_ratio"
            figures[key] = max(ratios[graph_pass.__name__] / ratios["nothing"] for ratios in worth.values())
            targets[key] = _WORTH
    bench.finish(figures, targets, {"device": str(device), "worth_of_passes": worth})


if __name__ == "__main__":
    main()
