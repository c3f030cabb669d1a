"""A DQN update by plain autograd and as recorded (on a GPU: a CUDA graph), in turn in one process.

Double Q-learning on a minibatch that lies on the device, which is a GPU if there is one:

zoo      batch 64 of 4 numbers through two layers of 256, as the SB3 zoo has them on CartPole
rainbow  the same with dueling, noisy and categorical heads
nature   batch 32 of four 84x84 frames through the network of Mnih et al. 2015
"""

from __future__ import annotations

import time
from typing import Any

import torch
from form import Benchmark, measure_pairs

from agents.algorithms.dqn import DQN, DoubleDQNMinibatch, DQNConfig, DQNMinibatch
from agents.policies.return_distributions import CategoricalConfig
from agents.types import Transition
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec, Discrete, TensorSpec

VECTOR = DataSpec(TensorSpec((4,)), Discrete(2))
FRAMES = DataSpec(TensorSpec((4, 84, 84), torch.uint8, 0, 255), Discrete(6))
RAINBOW: dict[str, Any] = {"dueling": True, "noisy_sigma": 0.5, "returns": CategoricalConfig(v_max=100.0)}
CASES: dict[str, tuple[DataSpec, DQNConfig]] = {
    "zoo": (VECTOR, DQNConfig()),
    "rainbow": (VECTOR, DQNConfig(**RAINBOW)),
    "nature": (FRAMES, DQNConfig(backbone=BackboneConfig("nature_cnn"), batch_size=32)),
}


def minibatch(dqn: DQN, device: torch.device) -> DQNMinibatch | DoubleDQNMinibatch:
    """One that an update takes, of random transitions."""
    shape, inputs = (1, dqn.config.batch_size), dqn.data_spec.inputs
    assert isinstance(inputs, TensorSpec)
    obs, next_obs = (torch.randint(0, 2, (*shape, *inputs.shape), device=device).to(inputs.dtype) for _ in range(2))
    ones = torch.ones(shape, device=device)
    action = torch.randint(dqn.q_network.num_actions, shape, device=device)
    sample = Transition(obs, action, ones, 0.99 * ones, next_obs, ones, torch.zeros_like(action))
    return next(dqn.minibatches(sample, slice(0, 1)))


def seconds_of_update(dqn: DQN, batch: DQNMinibatch | DoubleDQNMinibatch, num: int) -> float:
    """The mean over `num` updates, waited for."""
    start = time.perf_counter()
    for _ in range(num):
        metrics, _ = dqn.updater.step(batch)
    float(metrics["td_loss"])
    return (time.perf_counter() - start) / num


def main() -> None:
    bench = Benchmark("update_engines", __doc__)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    figures = {}
    for name, (spec, config) in CASES.items():
        agents = {}
        for engine in ("traced", "eager"):
            dqn = config.build(spec).to(device)
            dqn.set_engine(engine)  # type: ignore[arg-type]
            agents[engine] = dqn, minibatch(dqn, device)
            seconds_of_update(*agents[engine], 5)
        num = max(5, int((0.2 if bench.quick else 1.0) / seconds_of_update(*agents["eager"], 5)))
        pairs = measure_pairs(
            lambda agents=agents, num=num: seconds_of_update(*agents["traced"], num),
            lambda agents=agents, num=num: seconds_of_update(*agents["eager"], num),
            repeats=5 if bench.quick else 15,
            higher_is_better=False,
        )
        figures |= {
            f"{name}_recorded_microseconds": 1e6 * pairs.lab,
            f"{name}_eager_microseconds": 1e6 * pairs.peer,
            f"{name}_recorded_vs_eager_ratio": pairs.ratio,
        }
    bench.finish(figures, {}, {"device": str(device)})


if __name__ == "__main__":
    main()
