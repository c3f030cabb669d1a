"""Distributed collection: how it scales where environments wait, what it costs where they do not, and against RLlib.

    python benchmarks/collectors.py [--quick]

- 32 collectors of an environment that waits 5 ms a step (8 with --quick), against as many times one.
- PPO on CartPole with two remote collectors, synchronous and pipelined, against the same training with environments in
  its own process, and against RLlib's PPO with two runners at the same network, rollout, epochs and minibatch; starting
  is left out of all.
- The same training by eight collectors of which one is killed every 5 s: it must log the same rows as undisturbed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from form import Benchmark, Pairs, run_json

HERE = Path(__file__).resolve().parent

WAITING = """
import json, sys, time
from agents.experience.collector import EnvArguments
from cluster.collect.collectors import RemoteCollectorConfig
from cluster.session.session import session
from lab import catalog
from lab.config.overrides import resolve
catalog.allow_import("waiting_env")
num, steps, repeats = map(int, sys.argv[1:])
experiment = resolve("pg/cartpole", [])
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
    one, many = fleet(1), fleet(num)
    pairs = [(per_second(many), per_second(one)) for _ in range(repeats)]
    one.close(), many.close()
print(json.dumps({"many": [a for a, _ in pairs], "one": [b for _, b in pairs]}))
"""

TRAIN = """
import json, sys, tempfile, time
from pathlib import Path
from lab.config.overrides import resolve
from lab.training.train import train
budget, *collector = sys.argv[1:]
words = [f"trainer.budget={budget}", "trainer.eval_period=100000000", "trainer.num_threads=1", "tracking.mode=disabled"]
words += [f"data.collector.{word}" for word in collector]
experiment = resolve("ppo/cartpole", words)
run = train(experiment, run_dir=Path(tempfile.mkdtemp()) / "run").run
first, *_, last = [row for row in run.metrics() if "charts/steps_per_second" in row]
print(json.dumps({"per_second": (last["env_steps"] - first["env_steps"]) / (last["seconds"] - first["seconds"])}))
"""

KILLED = """
import json, os, random, signal, sys, tempfile, threading, time
from pathlib import Path
from cluster.collect.fleet import Fleet
from lab.config.overrides import resolve
from lab.training.train import train
period, budget = float(sys.argv[1]), sys.argv[2]
fleets, done, generator = [], threading.Event(), random.Random(0)
begin = Fleet.begin
Fleet.begin = lambda self, policy: (begin(self, policy), fleets.append(self))[0]

def kill():
    import psutil
    while not done.wait(period):
        if not fleets:
            continue
        found = [p for p in psutil.Process().children(recursive=True) if "ray::CollectorActor" in " ".join(p.cmdline())]
        if found:
            os.kill(generator.choice(found).pid, signal.SIGKILL)

if period:
    threading.Thread(target=kill, daemon=True).start()
words = [f"trainer.budget={budget}", "trainer.num_threads=1", "tracking.mode=disabled", "data.collector.kind=remote"]
words += ["data.num_envs=8", "data.collector.num=8", "data.collector.num_cpus=0"]
run = train(resolve("ppo/cartpole", words), run_dir=Path(tempfile.mkdtemp()) / "run").run
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
    from lab.config import serialization
    from lab.config.overrides import resolve

    tree = serialization.flatten(serialization.dump(resolve("ppo/cartpole", [])))
    batch = tree["data.num_envs"] * tree["data.num_steps"]
    return batch, int(tree["module.epochs"]), int(tree["module.minibatch_size"])


def main() -> None:
    bench = Benchmark("collectors", __doc__)
    repeats = 1 if bench.quick else 3
    steps = 100 if bench.quick else 400

    def run(source: str, *words: object) -> dict[str, Any]:
        found = f"import sys; sys.path.insert(0, {str(HERE)!r})\n{source}"  # where waiting_env is
        return run_json(sys.executable, found, *words, threads=1)

    collectors = 8 if bench.quick else 32
    found = run(WAITING, collectors, steps, 3 if bench.quick else 7)
    waiting = Pairs(found["many"], found["one"], higher_is_better=True)
    budget, seconds = (40_000, 10) if bench.quick else (120_000, 25)
    trainings: dict[str, Callable[[], dict[str, Any]]] = {
        "remote": lambda: run(TRAIN, budget, "kind=remote", "num=2"),
        "pipelined": lambda: run(TRAIN, budget, "kind=remote", "num=2", "mode=pipelined"),
        "local": lambda: run(TRAIN, budget),
        "rllib": lambda: run(RLLIB, *settings(), seconds),
    }
    rates: dict[str, list[float]] = {name: [] for name in trainings}
    for i in range(repeats):
        for name in list(trainings)[:: 1 if i % 2 == 0 else -1]:
            rates[name].append(trainings[name]()["per_second"])
            print(f"round {i + 1} of {repeats}, {name}: {rates[name][-1]:,.0f} steps/s", file=sys.stderr, flush=True)
    against_local = Pairs(rates["remote"], rates["local"], higher_is_better=True)
    pipelined = Pairs(rates["pipelined"], rates["local"], higher_is_better=True)
    against_rllib = Pairs(rates["remote"], rates["rllib"], higher_is_better=True)
    length = 20_000 if bench.quick else 100_000
    calm, killed = run(KILLED, 0, length), run(KILLED, 5, length)
    figures = {
        "waiting_fleet_per_second": waiting.lab,
        "waiting_fleet_vs_as_many_times_one_ratio": waiting.ratio / collectors,
        "cartpole_remote_per_second": against_local.lab,
        "cartpole_remote_vs_local_ratio": against_local.ratio,
        "cartpole_pipelined_vs_local_ratio": pipelined.ratio,
        "cartpole_remote_vs_rllib_ratio": against_rllib.ratio,
        "killed_every_5_s_rows_as_undisturbed_ratio": float(killed["rows"] == calm["rows"]),
        "killed_every_5_s_return": killed["best"],
        "killed_every_5_s_restarts": killed["restarts"],
        "killed_every_5_s_vs_undisturbed_seconds": killed["seconds"] / calm["seconds"],
    }
    targets = {
        "waiting_fleet_vs_as_many_times_one_ratio": 0.9,
        "cartpole_remote_vs_local_ratio": 0.8,
        "cartpole_remote_vs_rllib_ratio": 10.0,
        "killed_every_5_s_rows_as_undisturbed_ratio": 1.0,
    }
    bench.finish(figures, targets, {"collectors": collectors, "waiting": found, "per_second": rates})


if __name__ == "__main__":
    main()
