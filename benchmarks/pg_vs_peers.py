"""Policy gradients side by side with Stable-Baselines3 and a plain loop: environment steps per second, one thread each.

    ppo_cartpole     PPO at the SB3 zoo's settings (8 envs, 32 steps, batch 256, 20 epochs) against SB3
    ppo_loop         PPO at CleanRL's defaults (4 envs, 128 steps, 4 x 128 x 4 epochs) against a plain eager loop
    a2c_cartpole     A2C at the SB3 zoo's settings (8 envs, 5 steps, RMSprop) against SB3
    solved           seconds of training until every later evaluation (20 greedy episodes) averages 475 or more
    wide             1,024 environments, four epochs, two threads: collect and learn, the lab alone

Rates count training alone: no imports, no evaluation. CleanRL's package does not install beside this Python, so its
place is taken by a loop of the same shape: plain torch modules, autograd, Adam, one Python environment after the other.
`details` in the results say where the lab's time goes.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from form import Benchmark, measure, measure_pairs, peer_python, run_json

LAB = """
import json, sys
import torch
threads, recipe, steps, overrides = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]
torch.set_num_threads(threads)
import time
from lab import config
experiment = config.resolve(recipe, overrides)
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
which, steps = sys.argv[1], int(sys.argv[2])
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
torch.set_num_threads(1)
steps = int(sys.argv[1])
N, T, MINIBATCHES, EPOCHS = 4, 128, 4, 4
envs = gym.vector.SyncVectorEnv([lambda: gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1"))] * N)
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
        order = np.random.permutation(T * N)
        for part in np.split(order, MINIBATCHES):
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

SOLVED_LAB = """
import json, sys, tempfile
from pathlib import Path
import torch
torch.set_num_threads(1)
from lab import config
from lab.train import train
seed = sys.argv[1]
overrides = [f"seed={seed}", "trainer.eval_period=2500", "tracking.mode=disabled", "trainer.num_threads=1"]
experiment = config.resolve("ppo/cartpole", [*overrides, "trainer.checkpoint_seconds=1000"])
with tempfile.TemporaryDirectory() as folder:
    result = train(experiment, run_dir=Path(folder) / "run")
    rows = [json.loads(line) for line in result.run.metrics_path.read_text().splitlines()]
rows = [row for row in rows if "eval/return_mean" in row]
failed = [i for i, row in enumerate(rows) if row["eval/return_mean"] < 475]
first = failed[-1] + 1 if failed else 0
solved = first < len(rows)
found = {"seconds": rows[first]["seconds"], "env_steps": rows[first]["env_steps"]} if solved else {"seconds": 1e9}
print(json.dumps(found))
"""

PROFILE = """
import json, sys, time
import torch
torch.set_num_threads(1)
from lab import config
experiment = config.resolve("ppo/cartpole", [])
data = experiment.data.build(0)
torch.manual_seed(0)
module = experiment.module.build(data.spec)
module.set_engine("auto")
module.training_step(data)
spent = {}
def timed(name, owner, attribute):
    inner = getattr(owner, attribute)
    def call(*args, **kwargs):
        begun = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - begun
    setattr(owner, attribute, call)
timed("environments", data.collector.envs, "step")
timed("acting", module.policy, "act")
timed("collecting", data.collector, "collect")
timed("evaluating the rollout", module, "evaluate_rollout")
timed("updates: loss and gradient", module.updater, "_traced")
timed("updates", module.updater, "step")
begun = time.perf_counter()
for _ in range(20):
    module.training_step(data)
total = time.perf_counter() - begun
spent["collecting: the rest"] = spent.pop("collecting") - spent["environments"] - spent["acting"]
spent["updates: clip and optimizer"] = spent.pop("updates") - spent["updates: loss and gradient"]
spent["the rest"] = total - sum(spent.values())
rollouts = 20 * data.rounds
print(json.dumps({name: 1000 * seconds / rollouts for name, seconds in spent.items()}))
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


def main() -> None:
    bench = Benchmark("pg_vs_peers", __doc__)
    repeats, steps = (1, 10_000) if bench.quick else (7, 50_000)
    peer = peer_python(["stable-baselines3==2.9.2", "gymnasium==1.2.2"])

    def rate(python: Any, script: str, *words: object, threads: int = 1) -> float:
        return float(run_json(python, script, *words, threads=threads)["per_second"])

    lab = partial(rate, sys.executable, LAB)
    ppo = measure_pairs(lambda: lab(1, "ppo/cartpole", steps), lambda: rate(peer, SB3, "ppo", steps), repeats)
    loop = measure_pairs(
        lambda: lab(1, "ppo/cartpole", steps, *CLEANRL_DEFAULTS), lambda: rate(peer, LOOP, steps), repeats
    )
    a2c = measure_pairs(
        lambda: lab(1, "pg/a2c-cartpole", 2 * steps, *A2C_ZOO), lambda: rate(peer, SB3, "a2c", 2 * steps), repeats
    )
    seeds = 1 if bench.quick else 5
    solved = [run_json(sys.executable, SOLVED_LAB, seed, threads=1) for seed in range(seeds)]
    times = iter(solved)
    wide = measure(lambda: lab(2, "ppo/cartpole-wide", 20 * steps, threads=2), 1 if bench.quick else 3)
    profile = run_json(sys.executable, PROFILE, threads=1)
    print("\nwhere the time goes, milliseconds a rollout (ppo/cartpole, 256 steps, 20 updates)")
    for name, milliseconds in sorted(profile.items(), key=lambda item: -item[1]):
        print(f"  {name:<28}{milliseconds:8.2f}  {milliseconds / sum(profile.values()):6.1%}")
    figures = {
        "ppo_cartpole_per_second": ppo.lab,
        "ppo_cartpole_vs_sb3_ratio": ppo.ratio,
        "ppo_loop_settings_per_second": loop.lab,
        "ppo_cartpole_vs_plain_loop_ratio": loop.ratio,
        "a2c_cartpole_per_second": a2c.lab,
        "a2c_cartpole_vs_sb3_ratio": a2c.ratio,
        "ppo_cartpole_solved_seconds": measure(lambda: next(times)["seconds"], seeds),
        "ppo_wide_two_threads_per_second": wide,
    }
    targets = {
        "ppo_cartpole_vs_sb3_ratio": 3.0,
        "ppo_cartpole_vs_plain_loop_ratio": 3.0,
        "a2c_cartpole_vs_sb3_ratio": 2.5,
        "ppo_cartpole_solved_seconds": 3.0,
        "ppo_wide_two_threads_per_second": 100_000.0,
    }
    details = {
        "pairs": {name: pairs._asdict() for name, pairs in (("ppo", ppo), ("loop", loop), ("a2c", a2c))},
        "solved": solved,
        "milliseconds_a_rollout": profile,
    }
    bench.finish(figures, targets, details)


if __name__ == "__main__":
    main()
