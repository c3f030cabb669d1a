"""Distributed collection: how it scales where environments wait, what it costs where they do not, and against RLlib.

    python benchmarks/collectors.py [--quick]

- 32 collectors of an environment that waits 5 ms a step, against one.
- PPO on CartPole with remote collectors, against the same training with environments in its own process, and against
  RLlib's PPO with two runners at the same network, rollout, epochs and minibatch.
"""

from __future__ import annotations

import sys
from pathlib import Path

from form import Benchmark, measure_pairs, run_json

HERE = Path(__file__).resolve().parent

WAITING = """
import json, sys, time
from agents.collector import EnvArguments
from cluster.collectors import RemoteCollectorConfig
from lab import catalog, config
catalog.allow_import("waiting_env")
num, steps, rollouts = (int(word) for word in sys.argv[1:4])
experiment = config.resolve("pg/cartpole", [])
data = experiment.data.build(0)
policy = experiment.module.build(data.spec).policy
collector = RemoteCollectorConfig(num=num, num_cpus=0.0).build(EnvArguments("waiting_env:Waiting-v0", num, {}), 0)
for _ in range(2):
    collector.collect(policy, 5)
began = time.perf_counter()
for _ in range(rollouts):
    collector.collect(policy, steps)
seconds = time.perf_counter() - began
collector.close()
print(json.dumps({"per_second": num * steps * rollouts / seconds}))
"""

TRAIN = """
import json, sys, tempfile, time
from pathlib import Path
from lab import config
from lab.train import train
kind, num, budget = sys.argv[1], sys.argv[2], sys.argv[3]
words = [f"trainer.budget={budget}", "trainer.eval_period=100000000", "trainer.num_threads=1", "tracking.mode=disabled"]
words += [f"data.collector.kind={kind}"] + ([f"data.collector.num={num}"] if kind == "remote" else [])
experiment = config.resolve("ppo/cartpole", words)
result = train(experiment, run_dir=Path(tempfile.mkdtemp()) / "run").run.result()
print(json.dumps({"per_second": result["env_steps"] / result["seconds"]}))
"""

RLLIB = """
import json, logging, sys, time
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
batch, epochs, minibatch, seconds = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
algorithm = (
    PPOConfig()
    .environment("CartPole-v1")
    .env_runners(num_env_runners=2, num_envs_per_env_runner=4)
    .training(train_batch_size_per_learner=batch, num_epochs=epochs, minibatch_size=minibatch, lr=1e-3)
    .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh", vf_share_layers=False))
    .build_algo()
)
algorithm.train()
began, steps = time.perf_counter(), 0
while time.perf_counter() - began < seconds:
    steps += batch
    algorithm.train()
print(json.dumps({"per_second": steps / (time.perf_counter() - began)}))
"""


def settings() -> tuple[int, int, int]:
    """Rollout, epochs and minibatch of the lab's ppo/cartpole."""
    from lab import config

    tree = config.flatten(config.dump(config.resolve("ppo/cartpole", [])))
    batch = tree["data.num_envs"] * tree["data.num_steps"]
    return batch, int(tree["module.epochs"]), int(tree["module.minibatch_size"])


def main() -> None:
    bench = Benchmark("collectors", __doc__)
    repeats = 1 if bench.quick else 3
    steps, rollouts = (50, 4) if bench.quick else (100, 10)

    def script(source: str, *words: object) -> float:
        found = f"import sys; sys.path.insert(0, {str(HERE)!r})\n{source}"  # where waiting_env is
        return float(run_json(sys.executable, found, *words, threads=1)["per_second"])

    waiting = measure_pairs(
        lambda: script(WAITING, 32, steps, rollouts), lambda: script(WAITING, 1, steps, rollouts), repeats
    )
    budget = 60_000 if bench.quick else 200_000
    against_local = measure_pairs(
        lambda: script(TRAIN, "remote", 2, budget), lambda: script(TRAIN, "local", 0, budget), repeats
    )
    seconds = 15 if bench.quick else 60
    against_rllib = measure_pairs(
        lambda: script(TRAIN, "remote", 2, budget), lambda: script(RLLIB, *settings(), seconds), repeats
    )
    figures = {
        "waiting_32_per_second": waiting.lab,
        "waiting_32_vs_32_times_one_ratio": waiting.ratio / 32,
        "cartpole_remote_per_second": against_local.lab,
        "cartpole_remote_vs_local_ratio": against_local.ratio,
        "cartpole_remote_vs_rllib_ratio": against_rllib.ratio,
    }
    targets = {
        "waiting_32_vs_32_times_one_ratio": 0.9,
        "cartpole_remote_vs_local_ratio": 0.8,
        "cartpole_remote_vs_rllib_ratio": 10.0,
    }
    bench.finish(figures, targets, {"rllib_per_second": against_rllib.peer, "local_per_second": against_local.peer})


if __name__ == "__main__":
    main()
