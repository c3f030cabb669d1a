"""Policy gradients side by side with their peers on CartPole-v1: steps per second at equal settings and threads.

    ppo        PPO at the SB3 zoo's settings (8 envs, 32 steps, batch 256, 20 epochs) against SB3
    cleanrl    PPO at CleanRL's defaults (4 envs, 128 steps, 4 minibatches, 4 epochs) against CleanRL's own ppo.py
    loop       the same settings against a plain eager loop of ours, in the environments of this Python
    a2c        A2C at the SB3 zoo's settings (8 envs, 5 steps, RMSprop) against SB3
    wide       PPO in 1,024 environments, four epochs, two threads, against a plain eager loop
    rllib      RLlib's PPO at the zoo's settings, for reference
    solved     seconds of training until three evaluations in a row (20 greedy episodes each) reach 475

Rates count training alone, one thread unless it says two: no imports, no evaluation. CleanRL 1.2.0 asks for an older
Python and runs on this one beside gym 0.23. The plain loops are plain torch modules, autograd and Adam.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from form import Benchmark, Pairs, cleanrl_rates, measure_pairs, peer_python, run_json

LAB = """
import json, sys, time
import torch
steps, recipe, threads, overrides = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]
torch.set_num_threads(threads)
torch.set_flush_denormal(True)  # as a training does
from lab.config.overrides import resolve
experiment = resolve(recipe, overrides)
data = experiment.data.build(experiment.seed)
torch.manual_seed(experiment.seed)
module = experiment.module.build(data.spec)
module.set_engine("auto")
module.training_step(data)  # records the update
begun, done = time.perf_counter(), module.counters["env_steps"]
while module.counters["env_steps"] - done < steps:
    module.set_progress(min(1.0, (module.counters["env_steps"] - done) / steps))
    metrics = module.training_step(data)
    float(metrics["losses/policy_loss"])
print(json.dumps({"per_second": (module.counters["env_steps"] - done) / (time.perf_counter() - begun)}))
"""

SB3 = """
import json, sys, time
import torch
torch.set_num_threads(1)
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
steps, which = int(sys.argv[1]), sys.argv[2]
envs = make_vec_env("CartPole-v1", n_envs=8, seed=0)
if which == "ppo":
    model = PPO("MlpPolicy", envs, n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98, n_epochs=20,
                ent_coef=0.0, learning_rate=lambda f: f * 1e-3, clip_range=lambda f: f * 0.2, seed=0, device="cpu")
else:
    model = A2C("MlpPolicy", envs, ent_coef=0.0, seed=0, device="cpu")
model.learn(256)
begun = time.perf_counter()
model.learn(steps)
print(json.dumps({"per_second": steps / (time.perf_counter() - begun)}))
"""

LOOP = """
import json, sys, time
import gymnasium as gym, numpy as np, torch
from torch import nn
from torch.distributions import Categorical
steps, N, T, MINIBATCHES, EPOCHS, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
if N < 64:
    envs = gym.vector.SyncVectorEnv([lambda: gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1"))] * N)
else:
    envs = gym.make_vec("CartPole-v1", num_envs=N, vectorization_mode="vector_entry_point")
def net(out):
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, out))
actor, critic = net(2), net(1)
parameters = [*actor.parameters(), *critic.parameters()]
adam = torch.optim.Adam(parameters, lr=2.5e-4, eps=1e-5)
obs_, now = torch.zeros(T, N, 4), torch.as_tensor(envs.reset(seed=0)[0])
act_, logp_, rew_, val_ = (torch.zeros(T, N) for _ in range(4))
done_, done = torch.zeros(T, N), torch.zeros(N)
def iterate():
    global now, done
    for t in range(T):
        obs_[t], done_[t] = now, done
        with torch.no_grad():
            pi = Categorical(logits=actor(now))
            a = pi.sample()
            act_[t], logp_[t], val_[t] = a, pi.log_prob(a), critic(now).flatten()
        o, r, end, cut, _ = envs.step(a.numpy())
        rew_[t], now, done = torch.as_tensor(r).float(), torch.as_tensor(o), torch.as_tensor(end | cut).float()
    with torch.no_grad():
        adv, last, v_next, live = torch.zeros(T, N), 0.0, critic(now).flatten(), 1 - done
        for t in reversed(range(T)):
            last = rew_[t] + 0.99 * v_next * live - val_[t] + 0.99 * 0.95 * live * last
            adv[t], v_next, live = last, val_[t], 1 - done_[t]
    flat = [x.reshape(T * N, *x.shape[2:]) for x in (obs_, act_, logp_, val_, adv, adv + val_)]
    for _ in range(EPOCHS):
        order = torch.randperm(T * N)
        for part in order.chunk(MINIBATCHES):
            o, a, lp, v_old, A, R = (x[part] for x in flat)
            pi, v = Categorical(logits=actor(o)), critic(o).flatten()
            ratio = (pi.log_prob(a) - lp).exp()
            A = (A - A.mean()) / (A.std() + 1e-8)
            policy = torch.max(-A * ratio, -A * ratio.clamp(0.8, 1.2)).mean()
            near = v_old + (v - v_old).clamp(-0.2, 0.2)
            value = 0.5 * torch.max((v - R) ** 2, (near - R) ** 2).mean()
            loss = policy - 0.01 * pi.entropy().mean() + 0.5 * value
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 0.5)
            adam.step()
iterate()
begun, n = time.perf_counter(), 0
while n < steps:
    iterate()
    n += N * T
print(json.dumps({"per_second": n / (time.perf_counter() - begun)}))
"""

RLLIB = """
import json, logging, os, sys, time, warnings
warnings.simplefilter("ignore")
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
import torch
torch.set_num_threads(1)
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
seconds = float(sys.argv[1])
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
net = DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh", vf_share_layers=False)
config = (
    PPOConfig().environment("CartPole-v1")
    .env_runners(num_env_runners=1, num_envs_per_env_runner=8, rollout_fragment_length=32)
    .training(lr=1e-3, gamma=0.98, lambda_=0.8, clip_param=0.2, entropy_coeff=0.0, grad_clip=0.5, use_kl_loss=False,
              train_batch_size_per_learner=256, minibatch_size=256, num_epochs=20)
    .rl_module(model_config=net)
)
algorithm = config.build_algo()
def step():
    return algorithm.train()["env_runners"]["num_env_steps_sampled_lifetime"]
before, begun = step(), time.perf_counter()
while time.perf_counter() - begun < seconds:
    after = step()
print(json.dumps({"per_second": (after - before) / (time.perf_counter() - begun)}))
algorithm.stop()
ray.shutdown()
"""

SOLVED = """
import json, sys, tempfile
from pathlib import Path
import torch
torch.set_num_threads(1)
from lab.config.overrides import resolve
from lab.training.train import train
overrides = [f"seed={sys.argv[1]}", "trainer.eval_period=2048", "tracking.mode=disabled", "trainer.num_threads=1"]
experiment = resolve("ppo/cartpole", [*overrides, "trainer.checkpoint_seconds=1000"])
with tempfile.TemporaryDirectory() as folder:
    result = train(experiment, run_dir=Path(folder) / "run")
    rows = [json.loads(line) for line in result.run.metrics_path.read_text().splitlines()]
rows = [row for row in rows if "eval/return_mean" in row]
reached = [row["eval/return_mean"] >= 475 for row in rows]
thirds = [rows[i] for i in range(2, len(rows)) if all(reached[i - 2 : i + 1])]
found = {"seconds": thirds[0]["seconds"], "env_steps": thirds[0]["env_steps"]} if thirds else {"seconds": None}
print(json.dumps({**found, "returns": [row["eval/return_mean"] for row in rows]}))
"""

PROFILE = """
import json, sys, time
import torch
recipe, seconds, threads, overrides = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
torch.set_num_threads(threads)
from lab.config.overrides import resolve
experiment = resolve(recipe, overrides)
data = experiment.data.build(0)
torch.manual_seed(0)
module = experiment.module.build(data.spec)
module.set_engine("auto")
module.training_step(data)
spent = {}
def timed(name, inner):
    def call(*args, **kwargs):
        begun = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - begun
    return call
class TimedActor:
    def __init__(self, actor):
        self.__dict__["actor"], self.__dict__["call"] = actor, timed("acting", actor)
    def __call__(self, *args):
        return self.call(*args)
    def __getattr__(self, name):
        return getattr(self.actor, name)
array_actor = module.policy.array_actor
def timed_actor(noise):
    actor = array_actor(noise)
    return None if actor is None else TimedActor(actor)
object.__setattr__(module.policy, "array_actor", timed_actor)
object.__setattr__(module.policy, "act", timed("acting", module.policy.act))
data.collector.envs.step = timed("environments", data.collector.envs.step)
data.collector.collect = timed("collecting", data.collector.collect)
object.__setattr__(module, "evaluate_rollout", timed("evaluating the rollout", module.evaluate_rollout))
module.updater.gradients = timed("updates: loss and gradient", module.updater.gradients)
module.updater.step = timed("updates", module.updater.step)
steps, begun = module.counters["env_steps"], time.perf_counter()
while time.perf_counter() - begun < seconds:
    module.training_step(data)
total = time.perf_counter() - begun
thousands = (module.counters["env_steps"] - steps) / 1000
spent["collecting: the rest"] = spent.pop("collecting") - spent["environments"] - spent["acting"]
spent["updates: clip and optimizer"] = spent.pop("updates") - spent["updates: loss and gradient"]
spent["the rest"] = total - sum(spent.values())
print(json.dumps({name: 1000 * seconds / thousands for name, seconds in spent.items()}))
"""

A2C_ZOO = [
    "data.num_envs=8",
    "data.num_steps=5",
    "data.rounds=64",
    "module.gae_lambda=1.0",
    "module.entropy_coef=0.0",
    "module.normalize_obs=false",
    "module.normalize_rewards=false",
    "module.optimizer={name: rmsprop, lr: 7.0e-4, eps: 1.0e-5, max_grad_norm: 0.5}",
]
CLEANRL_DEFAULTS = [
    "data.num_envs=4",
    "data.num_steps=128",
    "module.gamma=0.99",
    "module.gae_lambda=0.95",
    "module.epochs=4",
    "module.minibatch_size=128",
    "module.value_clip=0.2",
    "module.value_coef=0.25",
    "module.entropy_coef=0.01",
    "module.optimizer.lr=2.5e-4",
]


WIDE = ["module.value_clip=0.2", "module.entropy_coef=0.01"]  # as the plain loop has them
PROFILED = {
    "PPO at the zoo's settings": ("ppo/cartpole", [], 1),
    "PPO at CleanRL's settings": ("ppo/cartpole", CLEANRL_DEFAULTS, 1),
    "A2C at the zoo's settings": ("pg/a2c-cartpole", A2C_ZOO, 1),
    "PPO in 1,024 environments": ("ppo/cartpole-wide", WIDE, 1),
    "PPO in 1,024 environments, two threads": ("ppo/cartpole-wide", WIDE, 2),
}


def main() -> None:
    bench = Benchmark("pg_vs_peers", __doc__)
    repeats, share = (1, 0.3) if bench.quick else (5, 1.0)
    sb3 = peer_python(["stable-baselines3==2.9.2", "gymnasium==1.2.2"])

    def rate(python: Path | str, script: str, steps: float, *words: object, threads: int = 1) -> float:
        return float(run_json(python, script, int(steps * share), *words, threads=threads)["per_second"])

    def pairs(
        recipe: str, steps: int, overrides: Sequence[str], peer: Callable[[], float], threads: int = 1, most: int = 5
    ) -> Pairs:
        lab = partial(rate, sys.executable, LAB, steps, recipe, threads, *overrides, threads=threads)
        return measure_pairs(lab, peer, min(repeats, most))

    loop = partial(rate, sys.executable, LOOP)
    measured = {
        "ppo_cartpole_vs_sb3": pairs("ppo/cartpole", 50_000, [], lambda: rate(sb3, SB3, 10_000, "ppo")),
        "ppo_cartpole_vs_cleanrl": pairs(
            "ppo/cartpole", 80_000, CLEANRL_DEFAULTS, lambda: cleanrl_rates("ppo", int(10_000 * share))[-1], most=3
        ),
        "ppo_cartpole_vs_plain_loop": pairs(
            "ppo/cartpole", 80_000, CLEANRL_DEFAULTS, lambda: loop(20_000, 4, 128, 4, 4, 1), most=3
        ),
        "a2c_cartpole_vs_sb3": pairs("pg/a2c-cartpole", 80_000, A2C_ZOO, lambda: rate(sb3, SB3, 20_000, "a2c")),
        "ppo_wide_two_threads_vs_plain_loop": pairs(
            "ppo/cartpole-wide", 500_000, WIDE, lambda: loop(300_000, 1024, 32, 8, 4, 2, threads=2), threads=2, most=3
        ),
    }
    solved = [run_json(sys.executable, SOLVED, seed, threads=1) for seed in range(1 if bench.quick else 5)]
    seconds = sorted(float("inf") if row["seconds"] is None else row["seconds"] for row in solved)
    profiles = {
        title: run_json(sys.executable, PROFILE, recipe, 3.0 * share, threads, *overrides, threads=threads)
        for title, (recipe, overrides, threads) in PROFILED.items()
    }
    for title, profile in profiles.items():
        print(f"\nwhere the time goes, milliseconds for 1,000 steps: {title}")
        for name, milliseconds in sorted(profile.items(), key=lambda item: -item[1]):
            print(f"  {name:<28}{milliseconds:8.2f}  {milliseconds / sum(profile.values()):6.1%}")
    figures: dict[str, float] = {}
    for name, found in measured.items():
        figures |= {f"{name}_per_second": found.lab, f"{name}_ratio": found.ratio}
    figures["rllib_ppo_cartpole_per_second"] = rate(sys.executable, RLLIB, 12)
    figures["ppo_cartpole_solved_seconds"] = seconds[len(seconds) // 2]
    targets = {
        "ppo_cartpole_vs_sb3_ratio": 3.0,
        "ppo_cartpole_vs_cleanrl_ratio": 3.0,
        "a2c_cartpole_vs_sb3_ratio": 2.5,
        "ppo_wide_two_threads_vs_plain_loop_per_second": 100_000.0,
        "ppo_cartpole_solved_seconds": 3.0,
    }
    details = {
        "pairs": {name: found._asdict() for name, found in measured.items()},
        "solved": solved,
        "milliseconds_for_1000_steps": profiles,
    }
    bench.finish(figures, targets, details)


if __name__ == "__main__":
    main()
