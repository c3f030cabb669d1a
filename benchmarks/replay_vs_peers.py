"""Replay buffers side by side: insert, sample and update priorities, and the memory of a million Atari transitions.

    python benchmarks/replay_vs_peers.py [--quick] [--sizes 100000 1000000]

Peers: Stable-Baselines3, cpprb and TorchRL, each by its own batched calls. Transitions are vectors of 8 numbers from 8
environments; batches hold 64. Rates are transitions a second.

insert       rows of 8 transitions, in rollouts of 32 rows where a buffer takes them (SB3 and the lab store time by N)
sample       uniform minibatches, 64 at once where a buffer can draw several
prioritized  draw a minibatch of 64 by priority, then set its priorities; "not measured" for TorchRL where its compiled
             sum tree does not load beside this torch
memory       growth of resident memory by a million 84x84 observations of 4 frames

The floor under a rate is the bare movement of its numbers, made by numpy with indices that are already known: copying a
rollout to the end of preallocated arrays, gathering observation, successor and a row of 16 bytes a transition.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from form import Benchmark, peer_python, run_json

PEERS = {
    "sb3": ["stable-baselines3==2.9.2", "gymnasium==1.2.2"],
    "cpprb": ["cpprb==11.0.0"],
    "torchrl": ["torchrl==0.14.1"],
}

CLOCK = """
import json, sys, time
import numpy as np
import torch
torch.set_num_threads(1)
size, repeats = int(sys.argv[1]), int(sys.argv[2])
N, D, T, B, K = 8, 8, 32, 64, 64

def rate(call, count, transitions):
    call()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return transitions / sorted(times)[len(times) // 2]

rng = np.random.default_rng(0)
obs, next_obs = rng.normal(size=(2, T, N, D)).astype(np.float32)
action, reward = rng.integers(4, size=(T, N)), rng.normal(size=(T, N)).astype(np.float32)
done = rng.random((T, N)) < 0.01
errors = rng.random(B).astype(np.float32)
"""

LAB = (
    CLOCK
    + """
from agents.replay.buffer import ReplayBuffer, ReplayConfig
from agents.replay.priorities import PriorityConfig
from agents.types import Rollout
from lab.data.spec import DataSpec, Discrete, TensorSpec
spec, cpu = DataSpec(TensorSpec((D,)), actions=Discrete(4)), torch.device("cpu")
t = torch.from_numpy
rollout = Rollout(t(obs), t(action), t(reward), t(done), torch.zeros(T, N).bool(), t(next_obs), t(done),
    torch.ones(T, N).bool(), None, {}, [], 0)
plain, ranked = (ReplayBuffer(ReplayConfig(capacity=size, priority=p), 0.99, spec, N, 0, cpu)
    for p in (None, PriorityConfig()))
for buffer in (plain, ranked):
    for _ in range(size // (T * N)):
        buffer.extend(rollout)
for _ in range(size // 64):
    ranked.update_priorities(torch.randint(len(ranked), (64,)), torch.rand(64))
errors = t(errors)

def prioritized():
    batch = ranked.sample(B, 1, 0.4)
    ranked.update_priorities(batch.indices[0], errors)

columns = [np.zeros((size, D), np.float32), np.zeros((size, D), np.float32), np.zeros(size, "V16")]
index = rng.integers(size, size=(8, B * K))
turn = iter(range(10**9))

def gather():
    for column in columns:
        column.take(index[next(turn) % 8], 0)

items = [obs.reshape(-1, D), next_obs.reshape(-1, D), np.zeros(T * N, "V16")]

def copy():
    for column, item in zip(columns, items):
        column[-T * N:] = item

print(json.dumps({
    "insert": rate(lambda: plain.extend(rollout), repeats, T * N),
    "sample": rate(lambda: plain.sample(B, K), repeats, B * K),
    "prioritized": rate(prioritized, 10 * repeats, B),
    "insert_floor": rate(copy, repeats, T * N),
    "sample_floor": rate(gather, repeats, B * K),
}))
"""
)

SB3 = (
    CLOCK
    + """
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
buffer = ReplayBuffer(size, spaces.Box(-1, 1, (D,)), spaces.Discrete(4), "cpu", n_envs=N)
infos = [{}] * N

def insert():
    for i in range(T):
        buffer.add(obs[i], next_obs[i], action[i], reward[i], done[i], infos)

for _ in range(size // (T * N)):
    insert()
print(json.dumps({
    "insert": rate(insert, repeats, T * N),
    "sample": rate(lambda: buffer.sample(B * K), repeats, B * K),
    "prioritized": None,
}))
"""
)

CPPRB = (
    CLOCK
    + """
from cpprb import PrioritizedReplayBuffer, ReplayBuffer
fields = {"obs": {"shape": D}, "next_obs": {"shape": D}, "act": {"dtype": np.int64}, "rew": {}, "done": {"dtype": bool}}
plain, ranked = ReplayBuffer(size, fields), PrioritizedReplayBuffer(size, fields)
flat = {"obs": obs.reshape(-1, D), "next_obs": next_obs.reshape(-1, D), "act": action.reshape(-1),
    "rew": reward.reshape(-1), "done": done.reshape(-1)}
for buffer in (plain, ranked):
    for _ in range(size // (T * N)):
        buffer.add(**flat)
for _ in range(size // 64):
    ranked.update_priorities(rng.integers(size - T * N, size=64), rng.random(64))

def prioritized():
    batch = ranked.sample(B, 0.4)
    ranked.update_priorities(batch["indexes"], errors)

print(json.dumps({
    "insert": rate(lambda: plain.add(**flat), repeats, T * N),
    "sample": rate(lambda: plain.sample(B * K), repeats, B * K),
    "prioritized": rate(prioritized, 10 * repeats, B),
}))
"""
)

TORCHRL = (
    CLOCK
    + """
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictPrioritizedReplayBuffer, TensorDictReplayBuffer
plain = TensorDictReplayBuffer(storage=LazyTensorStorage(size), batch_size=B * K)
try:
    ranked = TensorDictPrioritizedReplayBuffer(alpha=0.6, beta=0.4, storage=LazyTensorStorage(size), batch_size=B)
except RuntimeError as error:  # its compiled sum tree does not load beside every torch
    print(f"TorchRL draws nothing by priority here: {error}", file=sys.stderr)
    ranked = None
flat = TensorDict({"obs": torch.from_numpy(obs), "next_obs": torch.from_numpy(next_obs),
    "action": torch.from_numpy(action), "reward": torch.from_numpy(reward), "done": torch.from_numpy(done)},
    batch_size=[T, N]).reshape(-1)
for buffer in (plain, ranked) if ranked is not None else (plain,):
    for _ in range(size // (T * N)):
        buffer.extend(flat)
errors = torch.from_numpy(errors)

def prioritized():
    batch = ranked.sample()
    batch["td_error"] = errors
    ranked.update_tensordict_priority(batch)

print(json.dumps({
    "insert": rate(lambda: plain.extend(flat), repeats, T * N),
    "sample": rate(lambda: plain.sample(), repeats, B * K),
    "prioritized": None if ranked is None else rate(prioritized, 2 * repeats, B),
}))
"""
)

MEMORY = """
import json, os, sys
import torch
torch.set_num_threads(1)
from agents.replay.buffer import ReplayBuffer, ReplayConfig
from agents.types import Rollout
from lab.data.spec import DataSpec, Discrete, TensorSpec

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

transitions, N, T = int(sys.argv[1]), 8, 50
frames = torch.randint(256, (T + 4, N, 84, 84), dtype=torch.uint8)
stacks = torch.stack([frames[i : i + T + 1] for i in range(4)], 2)
start = torch.zeros(T, N, dtype=torch.bool)
zero, false = torch.zeros(T, N), torch.zeros(T, N, dtype=torch.bool)

def fill(capacity, transitions):
    global stacks
    buffer = ReplayBuffer(ReplayConfig(capacity=capacity, frame_stack=True), 0.99,
        DataSpec(TensorSpec((4, 84, 84), torch.uint8, 0, 255), actions=Discrete(6)), N, 0, torch.device("cpu"))
    before = resident()
    for i in range(transitions // (T * N)):
        start[0] = i % 4 == 0  # an episode lasts 200 steps, which is short for a game
        buffer.extend(Rollout(stacks[:-1], zero.long(), zero, false, false, stacks[1:], start, ~false, None, {}, [], 0))
        stacks = torch.roll(stacks, 1, -1)
    buffer.sample(32, 4)
    return resident() - before

fill(4_000, 4_000)  # what the process itself takes, once
print(json.dumps({"gb": fill(1_000_000, transitions) / 1e9 * (1_000_000 / transitions)}))
"""


def main() -> None:
    bench = Benchmark("replay_vs_peers", __doc__, _options)
    figures: dict[str, float | None] = {}
    targets: dict[str, float] = {}
    details: dict[str, Any] = {}
    repeats = 20 if bench.quick else 100
    scripts = {"sb3": SB3, "cpprb": CPPRB, "torchrl": TORCHRL}
    for size in bench.options.sizes or ([100_000] if bench.quick else [100_000, 1_000_000]):
        name = f"{size:.0e}".replace("+0", "")
        rounds: dict[str, list[dict[str, float | None]]] = {"lab": [], **{peer: [] for peer in PEERS}}
        for _ in range(1 if bench.quick else 3):
            rounds["lab"].append(run_json(sys.executable, LAB, size, repeats, threads=1))
            for peer, requirements in PEERS.items():
                rounds[peer].append(run_json(peer_python(requirements), scripts[peer], size, repeats, threads=1))
        details[name] = rounds
        for work in ("insert", "sample", "prioritized"):
            mine = [one[work] for one in rounds["lab"]]
            best = [
                max(other[work] or 0.0 for other in others) for others in zip(*(rounds[p] for p in PEERS), strict=True)
            ]
            ratios = sorted(a / b for a, b in zip(mine, best, strict=True) if a)
            figures[f"{work}_{name}_per_second"] = sorted(mine)[len(mine) // 2]  # type: ignore[type-var]
            floors = [one[f"{work}_floor"] or 0.0 for one in rounds["lab"] if f"{work}_floor" in one]
            if floors:
                figures[f"{work}_{name}_floor_per_second"] = sorted(floors)[len(floors) // 2]
            for peer in PEERS:
                values = sorted(one[work] for one in rounds[peer] if one[work])  # type: ignore[type-var]
                figures[f"{work}_{name}_{peer}_per_second"] = values[len(values) // 2] if values else None
            figures[f"{work}_{name}_vs_best_ratio"] = ratios[len(ratios) // 2]
            targets[f"{work}_{name}_vs_best_ratio"] = 2.0
    transitions = 200_000 if bench.quick else 1_000_000
    figures["memory_million_atari_gb"] = run_json(sys.executable, MEMORY, transitions, threads=1)["gb"]
    targets["memory_million_atari_gb"] = 7.3
    bench.finish(figures, targets, details)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", nargs="+", type=int, help="capacities (default: 100000 and 1000000)")


if __name__ == "__main__":
    main()
