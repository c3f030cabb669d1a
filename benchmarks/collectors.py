"""Distributed collection: how it scales where environments wait, what it costs where they do not, and against RLlib.

    python benchmarks/collectors.py [--quick]

- 32 collectors of an environment that waits 5 ms a step, against one.
- PPO on CartPole with remote collectors, against the same training with environments in its own process, and against
  RLlib's PPO with two runners at the same network, rollout, epochs and minibatch.
- The same training by eight collectors of which one is killed every 5 s: it must log the same rows as undisturbed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from form import Benchmark, Pairs, measure_pairs, run_json

HERE = Path(__file__).resolve().parent

WAITING = """
import json, sys, time
from agents.collector import EnvArguments
from cluster.collectors import RemoteCollectorConfig
from cluster.session import session
from lab import catalog, config
catalog.allow_import("waiting_env")
steps, repeats = int(sys.argv[1]), int(sys.argv[2])
experiment = config.resolve("pg/cartpole", [])
data = experiment.data.build(0)
policy = experiment.module.build(data.spec).policy

def fleet(num):
    made = RemoteCollectorConfig(num=num, num_cpus=0.0).build(EnvArguments("waiting_env:Waiting-v0", num, {}), 0)
    for _ in range(2):
        made.collect(policy, 5)
    return made

def per_second(made):
    began = time.perf_counter()
    made.collect(policy, steps)
    return made.num_envs * steps / (time.perf_counter() - began)

with session():
    one, many = fleet(1), fleet(32)
    pairs = [(per_second(many), per_second(one)) for _ in range(repeats)]
    one.close(), many.close()
print(json.dumps({"many": [a for a, _ in pairs], "one": [b for _, b in pairs]}))
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

KILLED = """
import json, os, random, signal, sys, tempfile, threading, time
from pathlib import Path
from cluster import collectors
from lab import config
from lab.train import train
period, budget = float(sys.argv[1]), sys.argv[2]
fleets, done, generator = [], threading.Event(), random.Random(0)
connect = collectors.RemoteCollector._connect
collectors.RemoteCollector._connect = lambda self: (fleets.append(self), connect(self))[1]

def kill():
    import psutil
    while not done.wait(period):
        if not fleets or fleets[0]._policy is None:
            continue
        found = [p for p in psutil.Process().children(recursive=True) if "ray::_Actor" in " ".join(p.cmdline())]
        os.kill(generator.choice(found).pid, signal.SIGKILL)

if period:
    threading.Thread(target=kill, daemon=True).start()
words = [f"trainer.budget={budget}", "trainer.num_threads=1", "tracking.mode=disabled", "data.collector.kind=remote"]
words += ["data.num_envs=8", "data.collector.num=8", "data.collector.num_cpus=0"]
run = train(config.resolve("ppo/cartpole", words), run_dir=Path(tempfile.mkdtemp()) / "run").run
done.set()
clocks = ("seconds", "charts/steps_per_second", "charts/collector_restarts")
rows = [{k: v for k, v in row.items() if k not in clocks} for row in run.metrics()]
result = run.result()
restarts, best = result["metrics"]["charts/collector_restarts"], result["best"]["value"]
print(json.dumps({"rows": rows, "restarts": restarts, "seconds": result["seconds"], "best": best}))
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
    steps = 100 if bench.quick else 400

    def run(source: str, *words: object) -> dict[str, Any]:
        found = f"import sys; sys.path.insert(0, {str(HERE)!r})\n{source}"  # where waiting_env is
        return run_json(sys.executable, found, *words, threads=1)

    def script(source: str, *words: object) -> float:
        return float(run(source, *words)["per_second"])

    found = run(WAITING, steps, 3 if bench.quick else 9)
    waiting = Pairs(found["many"], found["one"], higher_is_better=True)
    budget = 60_000 if bench.quick else 200_000
    against_local = measure_pairs(
        lambda: script(TRAIN, "remote", 2, budget), lambda: script(TRAIN, "local", 0, budget), repeats
    )
    seconds = 15 if bench.quick else 60
    against_rllib = measure_pairs(
        lambda: script(TRAIN, "remote", 2, budget), lambda: script(RLLIB, *settings(), seconds), repeats
    )
    length = 20_000 if bench.quick else 100_000
    calm, killed = run(KILLED, 0, length), run(KILLED, 5, length)
    figures = {
        "waiting_32_per_second": waiting.lab,
        "waiting_32_vs_32_times_one_ratio": waiting.ratio / 32,
        "cartpole_remote_per_second": against_local.lab,
        "cartpole_remote_vs_local_ratio": against_local.ratio,
        "cartpole_remote_vs_rllib_ratio": against_rllib.ratio,
        "killed_every_5_s_rows_as_undisturbed_ratio": float(killed["rows"] == calm["rows"]),
        "killed_every_5_s_return": killed["best"],
        "killed_every_5_s_restarts": killed["restarts"],
        "killed_every_5_s_vs_undisturbed_seconds": killed["seconds"] / calm["seconds"],
    }
    targets = {
        "waiting_32_vs_32_times_one_ratio": 0.9,
        "cartpole_remote_vs_local_ratio": 0.8,
        "cartpole_remote_vs_rllib_ratio": 10.0,
        "killed_every_5_s_rows_as_undisturbed_ratio": 1.0,
    }
    bench.finish(figures, targets, {"rllib_per_second": against_rllib.peer, "local_per_second": against_local.peer})


if __name__ == "__main__":
    main()
