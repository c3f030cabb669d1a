"""DQN beside its peers, Stable-Baselines3 and CleanRL.

    python benchmarks/dqn_vs_peers.py [--quick] [--only zoo cleanrl solve update pong]

zoo      CartPole at the SB3 zoo's settings: 256x256, batch 64, 128 updates every 256 steps, one torch thread each
cleanrl  CartPole at CleanRL's defaults: one environment, 120-84, batch 128, an update every 10 steps; epsilon falls
         over the first half of the run, as there, against CleanRL's own dqn.py (1.2.0); both rates from 11,000 steps
solve    seconds of training until three evaluations in a row, one every 2,000 steps, average 475 over 20 greedy
         episodes; the recipe dqn/cartpole against SB3 at the zoo's settings; evaluations and start-up are not counted;
         where SB3 does not get there in the zoo's 50,000 steps, these count, and the ratio is too low
update   one update at the zoo's settings against the matrix products that it must do, and where the rest goes
pong     agent steps a second of collecting and learning, 8 environments, batch 32, an update every 4 steps, 2 threads
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

from form import Benchmark, cleanrl_rates, measure_pairs, peer_python, run_json

SB3 = ["stable-baselines3==2.9.2", "gymnasium==1.2.2"]
SB3_ATARI = [*SB3, "ale-py==0.12.1", "opencv-python-headless", "pillow"]

TARGETS = {
    "zoo_vs_sb3_ratio": 2.5,
    "cartpole_vs_cleanrl_ratio": 2.5,
    "solve_vs_sb3_ratio": 5.0,
    "pong_vs_sb3_ratio": 1.3,
}

ZOO = [
    "dqn/cartpole",
    "data.num_envs=1",
    "data.num_steps=256",
    "data.replay.n_step=1",
    "module.backbone.hidden=[256,256]",
    "module.batch_size=64",
    "module.double=false",
    "module.gamma=0.99",
    "module.initial_reward=0",
    "module.target_tau=0",
    "module.target_period=128",
    "module.updates_per_env_step=0.5",
    "module.optimizer.lr=2.3e-3",
    "module.epsilon.end=0.04",
    "module.epsilon.decay_steps=8000",
    "data.replay.priority=null",
]
CLEANRL = [
    *ZOO,
    "data.num_steps=10",
    "data.rounds=50",
    "data.learning_starts=10000",
    "data.replay.capacity=10000",
    "module.backbone.hidden=[120,84]",
    "module.batch_size=128",
    "module.updates_per_env_step=0.1",
    "module.target_period=50",
    "module.optimizer.lr=2.5e-4",
    "module.optimizer.max_grad_norm=null",
    "module.loss=mse",
    "module.epsilon.end=0.05",
]
PONG = [
    "dqn/pong",
    "data.num_envs=8",
    "data.num_steps=4",
    "data.learning_starts=400",
    "data.replay.capacity=20000",
    "module.batch_size=32",
    "module.updates_per_env_step=0.25",
    "module.double=false",
    "module.optimizer.max_grad_norm=10",
]

LAB_RATE = """
import json, sys, tempfile
from pathlib import Path
import torch
threads, steady_from, budget, *words = sys.argv[1:]
torch.set_num_threads(int(threads))
from lab.config.overrides import resolve
from lab.training.train import train
recipe, *overrides = words
experiment = resolve(recipe, [*overrides, f"trainer.budget={budget}", "trainer.eval_period=1000000000",
    "trainer.checkpoint_seconds=100000", "tracking.mode=disabled", f"trainer.num_threads={threads}",
    "trainer.log_period=256", "trainer.device=cpu"])
from agents.algorithms.agent import Agent
Agent.evaluate = lambda self, data, **options: {"eval/return_mean": 0.0}
with tempfile.TemporaryDirectory() as folder:
    rows = train(experiment, run_dir=Path(folder) / "run").run.metrics()
rows = [row for row in rows if row["env_steps"] >= int(steady_from)]
steps, seconds = (rows[-1][key] - rows[0][key] for key in ("env_steps", "seconds"))
print(json.dumps({"per_second": steps / seconds}))
"""

SB3_RATE = """
import json, sys, time
import torch
threads, steady_from, budget = map(int, sys.argv[1:])
torch.set_num_threads(threads)
import gymnasium as gym
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback

class Clock(BaseCallback):
    started = None
    def _on_step(self):
        if self.started is None and self.num_timesteps >= steady_from:
            self.started = (self.num_timesteps, time.perf_counter())
        return True

clock = Clock()
model = DQN("MlpPolicy", gym.make("CartPole-v1"), learning_rate=2.3e-3, batch_size=64, buffer_size=100000,
    learning_starts=1000, gamma=0.99, target_update_interval=10, train_freq=256, gradient_steps=128,
    exploration_fraction=0.16 * 50000 / budget, exploration_final_eps=0.04,
    policy_kwargs={"net_arch": [256, 256]}, device="cpu", seed=0)
model.learn(budget, callback=clock)
steps, began = clock.started
print(json.dumps({"per_second": (model.num_timesteps - steps) / (time.perf_counter() - began)}))
"""

LAB_SOLVE = """
import json, sys, tempfile
from pathlib import Path
import torch
torch.set_num_threads(1)
from lab.config.overrides import resolve
from lab.training.train import train
from agents.algorithms.agent import Agent
values, loops, evaluate = [], [], Agent.evaluate

def evaluate_and_stop(self, data, **options):
    result = evaluate(self, data, **options)
    values.append(result["eval/return_mean"])
    if len(values) >= 3 and min(values[-3:]) >= 475:
        loops[0].ask_to_stop()
    return result

Agent.evaluate = evaluate_and_stop
experiment = resolve("dqn/cartpole", ["trainer.eval_period=2000", "tracking.mode=disabled",
    "trainer.num_threads=1", "trainer.device=cpu", f"seed={sys.argv[1]}"])
with tempfile.TemporaryDirectory() as folder:
    rows = train(experiment, run_dir=Path(folder) / "run", on_loop=loops.append).run.metrics()
curve = [(row["env_steps"], row["seconds"], row["eval/return_mean"]) for row in rows if "eval/return_mean" in row]
print(json.dumps({"curve": curve}))
"""

SB3_SOLVE = """
import json, sys, time
import torch
torch.set_num_threads(1)
import gymnasium as gym
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

class Evaluate(BaseCallback):
    curve, next_evaluation, seconds, clock = [], 2000, 0.0, None
    def _on_training_start(self):
        self.clock = time.perf_counter()
    def _on_step(self):
        if self.num_timesteps >= self.next_evaluation:
            self.next_evaluation += 2000
            self.seconds += time.perf_counter() - self.clock
            value, _ = evaluate_policy(self.model, test_envs, n_eval_episodes=20, warn=False)
            self.curve.append((self.num_timesteps, self.seconds, float(value)))
            self.clock = time.perf_counter()
            return not (len(self.curve) >= 3 and all(v >= 475 for _, _, v in self.curve[-3:]))
        return True

test_envs, evaluate = make_vec_env("CartPole-v1", n_envs=20, seed=1), Evaluate()
model = DQN("MlpPolicy", gym.make("CartPole-v1"), learning_rate=2.3e-3, batch_size=64, buffer_size=100000,
    learning_starts=1000, gamma=0.99, target_update_interval=10, train_freq=256, gradient_steps=128,
    exploration_fraction=0.16, exploration_final_eps=0.04, policy_kwargs={"net_arch": [256, 256]}, device="cpu",
    seed=int(sys.argv[1]))
model.learn(50000, callback=evaluate)
print(json.dumps({"curve": evaluate.curve}))
"""

UPDATE = """
import json, time
import torch
torch.set_num_threads(1)
torch.set_flush_denormal(True)  # as a training does
from agents.algorithms.dqn import DQNConfig
from agents.types import Transition
from lab.data.spec import DataSpec, Discrete, TensorSpec
from lab.engine.optimizers import OptimizerConfig
K, B = 128, 64
torch.manual_seed(0)
agent = DQNConfig(double=False, optimizer=OptimizerConfig(lr=1e-3, max_grad_norm=10.0)).build(
    DataSpec(TensorSpec((4,)), actions=Discrete(2)))
agent.set_engine("auto")
sample = Transition(torch.randn(K, B, 4), torch.randint(2, (K, B)), torch.randn(K, B), torch.full((K, B), 0.99),
    torch.randn(K, B, 4), torch.ones(K, B), torch.zeros(K, B, dtype=torch.int64))

def seconds(call, repeats):
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]

x, h, w1, w2, w3 = (torch.randn(*s) for s in ((B, 4), (B, 256), (4, 256), (256, 256), (256, 2)))
o = torch.randn(B, 2)
xs, hs = torch.randn(K * B, 4), torch.randn(K * B, 256)

def online_products():  # forward 3, gradients of weights 3, of activations 2
    for _ in range(K):
        x @ w1, h @ w2, h @ w3, o.T @ h, h.T @ h, h.T @ x, o @ w3.T, h @ w2.T

def target_products():
    xs @ w1, hs @ w2, hs @ w3

def updates():
    for minibatch in agent.minibatches(sample, slice(0, K)):
        agent.updater.step(minibatch)

minibatches = list(agent.minibatches(sample, slice(0, K)))
gradients = [torch.randn_like(p) * 1e-3 for p in agent.updater.parameters]

def steps():
    for minibatch in minibatches:
        agent.updater.step(minibatch)

def optimizer_steps():
    for _ in range(K):
        agent.updater.apply(gradients, {})

print(json.dumps({name: seconds(call, 15) / K for name, call in {
    "update": updates,
    "products": online_products,
    "target_products": target_products,
    "targets": lambda: agent.minibatches(sample, slice(0, K)),
    "step": steps,
    "optimizer": optimizer_steps,
}.items()}))
"""

SB3_PONG = """
import json, sys, time
import torch
threads, steady_from, budget = map(int, sys.argv[1:])
torch.set_num_threads(threads)
import ale_py, gymnasium as gym
gym.register_envs(ale_py)
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

class Clock(BaseCallback):
    started = None
    def _on_step(self):
        if self.started is None and self.num_timesteps >= steady_from:
            self.started = (self.num_timesteps, time.perf_counter())
        return True

clock = Clock()
envs = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=8, seed=0), n_stack=4)
model = DQN("CnnPolicy", envs, learning_rate=1e-4, batch_size=32, buffer_size=20000, learning_starts=400,
    target_update_interval=1000, train_freq=4, gradient_steps=8, exploration_fraction=0.1, exploration_final_eps=0.01,
    device="cpu", seed=0)
model.learn(budget, callback=clock)
steps, began = clock.started
print(json.dumps({"per_second": (model.num_timesteps - steps) / (time.perf_counter() - began)}))
"""


def main() -> None:
    bench = Benchmark("dqn_vs_peers", __doc__, _options)
    figures: dict[str, float | None] = {}
    details: dict[str, Any] = {}
    cases = {"zoo": zoo, "cleanrl": cleanrl, "solve": solve, "update": update, "pong": pong}
    for name in bench.options.only or cases:
        try:
            cases[name](bench.quick, figures, details)
        except RuntimeError as error:  # a peer that cannot be installed or run here must not cost the other cases
            print(f"{name} was not measured: {error}", file=sys.stderr)
            figures |= {key: None for key in TARGETS if key.removeprefix("cartpole_vs_").startswith(name)}
    bench.finish(figures, {key: value for key, value in TARGETS.items() if key in figures}, details)


def zoo(quick: bool, figures: dict[str, float | None], details: dict[str, Any]) -> None:
    peer, budget = peer_python(SB3), 5_000 if quick else 8_000
    pairs = measure_pairs(
        lambda: run_json(sys.executable, LAB_RATE, 1, 2_000, budget, *ZOO, threads=1)["per_second"],
        lambda: run_json(peer, SB3_RATE, 1, 2_000, budget, threads=1)["per_second"],
        repeats=1 if quick else 3,
    )
    figures |= {"zoo_per_second": pairs.lab, "zoo_sb3_per_second": pairs.peer, "zoo_vs_sb3_ratio": pairs.ratio}
    details["zoo"] = pairs._asdict()


def steady(rates: list[float]) -> float:
    """Steps a second from 11,000 steps on, of CleanRL's rates from 10,100 steps on, one every 100."""
    steps = [10_100 + 100 * i for i in range(len(rates))]
    seconds = [step / rate for step, rate in zip(steps, rates, strict=True)]
    return (steps[-1] - steps[9]) / (seconds[-1] - seconds[9])


def cleanrl(quick: bool, figures: dict[str, float | None], details: dict[str, Any]) -> None:
    budget = 20_000 if quick else 30_000
    settings = [*CLEANRL, f"module.epsilon.decay_steps={budget // 2}"]
    pairs = measure_pairs(
        lambda: run_json(sys.executable, LAB_RATE, 1, 11_000, budget, *settings, threads=1)["per_second"],
        lambda: steady(cleanrl_rates("dqn", budget)),
        repeats=1 if quick else 3,
    )
    figures |= {
        "cleanrl_settings_per_second": pairs.lab,
        "cleanrl_peer_per_second": pairs.peer,
        "cartpole_vs_cleanrl_ratio": pairs.ratio,
    }
    details["cleanrl"] = pairs._asdict()


def solve(quick: bool, figures: dict[str, float | None], details: dict[str, Any]) -> None:
    peer = peer_python(SB3)
    curves: dict[str, list[Any]] = {"lab": [], "sb3": []}

    def run(who: str, python: Any, script: str) -> float:
        curve = run_json(python, script, len(curves[who]), threads=1)["curve"]
        curves[who].append(curve)
        seconds = sustained(curve)
        return curve[-1][1] if who == "sb3" and math.isinf(seconds) else seconds

    pairs = measure_pairs(
        lambda: run("lab", sys.executable, LAB_SOLVE),
        lambda: run("sb3", peer, SB3_SOLVE),
        repeats=1 if quick else 3,
        higher_is_better=False,
    )
    figures |= {"solve_seconds": pairs.lab, "solve_sb3_seconds": pairs.peer, "solve_vs_sb3_ratio": pairs.ratio}
    figures["solve_sb3_runs_that_did"] = sum(math.isfinite(sustained(curve)) for curve in curves["sb3"])
    details["solve"] = {**pairs._asdict(), "curves": curves}


def sustained(curve: list[tuple[int, float, float]]) -> float:
    """Seconds to the last of three evaluations in a row of 475 or more; infinite when there are none."""
    for i in range(2, len(curve)):
        if all(value >= 475 for _, _, value in curve[i - 2 : i + 1]):
            return curve[i][1]
    return float("inf")


def update(quick: bool, figures: dict[str, float | None], details: dict[str, Any]) -> None:
    found = run_json(sys.executable, UPDATE, threads=1)
    products = found["products"] + found["target_products"]
    parts = {
        "": found["update"],
        "products_": products,
        "targets_beside_products_": found["targets"] - found["target_products"],
        "loss_and_gradient_beside_products_": found["step"] - found["optimizer"] - found["products"],
        "clipping_and_adam_": found["optimizer"],
    }
    figures |= {f"update_{name}microseconds": seconds * 1e6 for name, seconds in parts.items()}
    figures["update_share_not_products"] = 1 - products / found["update"]


def pong(quick: bool, figures: dict[str, float | None], details: dict[str, Any]) -> None:
    peer, budget = peer_python(SB3_ATARI), 1_000 if quick else 1_500
    pairs = measure_pairs(
        lambda: run_json(sys.executable, LAB_RATE, 2, 500, budget, *PONG, threads=2)["per_second"],
        lambda: run_json(peer, SB3_PONG, 2, 500, budget, threads=2)["per_second"],
        repeats=1 if quick else 3,
    )
    figures |= {"pong_per_second": pairs.lab, "pong_sb3_per_second": pairs.peer, "pong_vs_sb3_ratio": pairs.ratio}
    details["pong"] = pairs._asdict()


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=("zoo", "cleanrl", "solve", "update", "pong"))


if __name__ == "__main__":
    main()
