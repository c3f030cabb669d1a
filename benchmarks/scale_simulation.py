"""A simulation of distributed collection: costs measured here, small fleets predicted and run, large ones predicted.

    python benchmarks/scale_simulation.py [--quick]

Collectors of one machine share its cores step by step, first come, first served (an environment may also wait without
one); rollouts cross the learner's network card and are taken, one after the other, by the learner's process. The
figures set its predictions beside fleets that run here; the table before them is what docs/scale.md says.
"""

from __future__ import annotations

import heapq
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from form import Benchmark
from rich.console import Console
from rich.table import Table

from agents.envs.make import make_envs
from agents.experience.collector import EnvArguments, LocalCollector
from cluster.collect.collectors import RemoteCollector, RemoteCollectorConfig
from cluster.collect.messages import join, opened, reply
from cluster.session.session import session
from lab import catalog
from lab.config.overrides import resolve
from lab.seeding import derive_seed

HERE = Path(__file__).resolve().parent
CARTPOLE, WAITING = "CartPole-v1", "waiting_env:Waiting-v0"


STEPS = """
import sys, time, torch
torch.set_num_threads(1)
from agents.experience.collector import LocalCollector
from agents.envs.make import make_envs
from lab.config.overrides import resolve
experiment = resolve("pg/cartpole", ["seed=0"])
data = experiment.data.build(0)
policy = experiment.module.build(data.spec).policy
collector = LocalCollector(make_envs("CartPole-v1", 4, {}), 0)
collector.collect(policy, 500)
for line in sys.stdin:
    began = time.perf_counter()
    collector.collect(policy, int(line))
    print((time.perf_counter() - began) / int(line), flush=True)
"""


def crowding(cores: int, steps: int) -> float:
    """How much longer a step takes when every core steps: caches, clock rates and the machine's other work."""
    options: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes: list[Any] = [subprocess.Popen([sys.executable, "-c", STEPS], **options) for _ in range(cores)]

    def measure(some: list[Any]) -> float:
        for process in some:
            print(steps, file=process.stdin, flush=True)
        return float(np.mean([float(process.stdout.readline()) for process in some]))

    measure(processes)  # once all have started
    found = [measure(processes) / measure(processes[:1]) for _ in range(5)]
    for process in processes:
        process.communicate()
    return max(1.0, float(np.median(found)))


class Costs(NamedTuple):
    """Seconds of one core, but for `wait`."""

    step: float
    """of a collector's step with all its environments"""
    wait: float
    """that passes in a step without a core"""
    rollout: float
    """of a collector for each rollout: weights taken on, state packed, both handed over"""
    request: float
    """of the learner's process for each rollout: asked for and taken"""
    per_byte: float
    """of the learner's process for each byte taken and joined"""


class Fleet(NamedTuple):
    """Collectors that send to one learner."""

    machines: int
    collectors: int
    """of a machine"""
    cores: int
    """of a machine"""
    num_steps: int
    """T of a rollout"""
    rollout_bytes: float
    network: float = float("inf")
    """bytes a second into the learner's machine"""


def collect_seconds(fleet: Fleet, costs: Costs) -> dict[str, float]:
    """When the last rollout was stepped, had crossed the network, and was taken, in one synchronous collect."""
    ends: list[float] = []
    for _ in range(fleet.machines):
        ends += _machine(fleet, costs)
    card = taken = 0.0
    for end in sorted(ends):
        card = max(card, end) + fleet.rollout_bytes / fleet.network
        taken = max(taken, card) + costs.request + fleet.rollout_bytes * costs.per_byte
    return {"stepped": max(ends), "sent": card, "taken": taken}


def _machine(fleet: Fleet, costs: Costs) -> list[float]:
    """When each collector of one machine has its rollout ready."""
    cores = [0.0] * fleet.cores
    waiting = [(costs.wait, index, fleet.num_steps) for index in range(fleet.collectors)]
    heapq.heapify(waiting)
    ends = []
    while waiting:
        ready, index, steps = heapq.heappop(waiting)
        work = costs.step if steps else costs.rollout
        end = max(ready, heapq.heappop(cores)) + work
        heapq.heappush(cores, end)
        if steps:
            heapq.heappush(waiting, (end + (costs.wait if steps > 1 else 0.0), index, steps - 1))
        else:
            ends.append(end)
    return ends


# ---------------------------------------------------------------------- what is measured here


class Measured:
    """Costs and fleets of this machine."""

    def __init__(self) -> None:
        experiment = resolve("pg/cartpole", ["seed=0"])
        data = experiment.data.build(0)
        self.policy: Any = experiment.module.build(data.spec).policy
        data.close()

    def step_cpu_seconds(self, env: str, num_envs: int, steps: int) -> float:
        """Processor time of a collector's step, in this process."""
        collector = LocalCollector(make_envs(env, num_envs, {}), 0)
        collector.collect(self.policy, 20)
        began = time.thread_time()
        collector.collect(self.policy, steps)
        return (time.thread_time() - began) / steps

    def fleet_seconds(self, env: str, num: int, num_envs: int, lengths: Sequence[int], repeats: int) -> list[float]:
        """Synchronous collects by a fleet, for each length of a rollout the one in the middle of several."""
        remote = RemoteCollector(
            RemoteCollectorConfig(num=num, num_cpus=0.0), EnvArguments(env, num * num_envs, {}), derive_seed(0, env)
        )
        times: list[list[float]] = [[] for _ in lengths]
        try:
            for _ in range(3):
                remote.collect(self.policy, min(lengths))
            for _ in range(repeats):
                for steps, taken in zip(lengths, times, strict=True):
                    began = time.perf_counter()
                    remote.collect(self.policy, steps)
                    taken.append(time.perf_counter() - began)
        finally:
            remote.close()
        return [float(np.median(taken)) for taken in times]

    def step_and_wait(self, env: str, num_envs: int, repeats: int) -> tuple[float, float]:
        """What a step takes of a core, and what passes beside it, by one collector's longer and shorter rollouts."""
        short, long = (10, 40) if env == WAITING else (50, 450)
        quick, slow = self.fleet_seconds(env, 1, num_envs, (short, long), repeats)
        each = (slow - quick) / (long - short)
        step = min(self.step_cpu_seconds(env, num_envs, long), each) if env == WAITING else each
        return step, each - step

    def per_byte(self) -> float:
        """Seconds to take and join a byte of rollouts out of the object store."""
        import ray

        collector = LocalCollector(make_envs(CARTPOLE, 64, {}), 0)
        rollout = collector.collect(self.policy, 2000)
        references = [ray.put(reply(rollout, b"")) for _ in range(4)]
        began = time.perf_counter()
        joined = join([opened(found)[0] for found in ray.get(references)])
        return (time.perf_counter() - began) / rollout_bytes(joined)


def rollout_bytes(rollout: Any) -> float:
    """The bytes of a rollout's tensors."""
    tensors = [value for value in (*rollout, *rollout.extras.values()) if isinstance(value, torch.Tensor)]
    return float(sum(t.numel() * t.element_size() for t in tensors))


def overheads(measured: Measured, step: float, cores: int, repeats: int) -> tuple[float, float]:
    """`rollout` and `request`, from collects of a single step of one environment by one collector and by four."""
    (one,) = measured.fleet_seconds(CARTPOLE, 1, 1, (1,), repeats)
    (four,) = measured.fleet_seconds(CARTPOLE, 4, 1, (1,), repeats)
    one, four = one - step, four - 4 * step / min(cores, 4)
    # one = rollout + request; four = 4 rollout / cores + request, for all requests but the last overlap with rollouts
    rollout = max((four - one) / (4 / cores - 1), 1e-4) if cores < 4 else one / 2
    return min(rollout, one), max(one - rollout, 1e-4)


def print_extrapolation(costs: Costs) -> None:
    """1,000 collectors, a core each, of 8 Atari environments, and learners with a 100 Gbit/s card for every eight.

    A step of an environment takes 0.6 ms (ale-py's vector environment on one core), a pass of the Nature network (19
    MFLOP) on 8 observations 3 ms at 50 GFLOP/s; the rest is as measured here.
    """
    atari = costs._replace(step=8 * 0.6e-3 + 3e-3, wait=0.0)
    sizes = {"stacked, obs and next_obs": 2.0 * 4 * 84 * 84, "one new frame a step": 84.0 * 84}
    table = Table(title="1,000 collectors of 8 environments, T = 32, synchronous")
    for column in ("learners", "observations", "steps/s", "of what cores give", "bound by", "GB/s into a learner"):
        table.add_column(column, justify="left" if column in ("observations", "bound by") else "right")
    for learners in (1, 8, 64):
        share = 1000 // learners
        for name, size in sizes.items():
            fleet = Fleet(1, share, share, 32, 32 * 8 * (size + 32), 12.5e9 / min(learners, 8))
            found = collect_seconds(fleet, atari)
            parts = {
                "steps": found["stepped"],
                "network card": found["sent"] - found["stepped"],
                "learner's process": found["taken"] - found["sent"],
            }
            table.add_row(
                str(learners),
                name,
                f"{learners * share * 8 * 32 / found['taken']:,.0f}",
                f"{found['stepped'] / found['taken']:.0%}",
                max(parts, key=lambda key: parts[key]),
                f"{share * fleet.rollout_bytes / found['taken'] / 1e9:.2f}",
            )
    Console(file=sys.stderr, width=120).print(table)


def main() -> None:
    bench = Benchmark("scale_simulation", __doc__)
    torch.set_num_threads(1)
    sys.path.insert(0, str(HERE))  # where waiting_env is, for collectors too
    catalog.allow_import("waiting_env")
    cores, repeats = len(os.sched_getaffinity(0)), 5 if bench.quick else 15
    measured = Measured()
    cases = [(CARTPOLE, 1, 4, 256), (CARTPOLE, 2, 4, 256), (WAITING, 8, 1, 50)]
    cases += [] if bench.quick else [(CARTPOLE, 4, 4, 256), (CARTPOLE, 2, 64, 64), (WAITING, 32, 1, 50)]
    figures: dict[str, float] = {}
    agreement = []
    details: dict[str, dict[str, float]] = {}
    crowded = crowding(cores, 2_000)
    with session(num_cpus=cores):
        step, _ = measured.step_and_wait(CARTPOLE, 1, repeats)
        rollout, request = overheads(measured, step, cores, 8 * repeats)
        costs = Costs(0.0, 0.0, rollout, request, measured.per_byte())
        for env, num, num_envs, steps in cases:
            step, wait = measured.step_and_wait(env, num_envs, repeats)  # beside its case: machines change their speed
            details[f"{env} x {num_envs}, {num} collectors"] = {"step": step, "wait": wait}
            fleet = Fleet(1, num, cores, steps, steps * num_envs * 64.0)
            slower = crowded if num >= cores and not wait else 1.0
            predicted = collect_seconds(fleet, costs._replace(step=slower * step, wait=wait))["taken"]
            (found,) = measured.fleet_seconds(env, num, num_envs, (steps,), repeats)
            name = f"{'waiting' if wait else 'cartpole'}_{num}x{num_envs}"
            figures[f"{name}_predicted_per_second"] = num * num_envs * steps / predicted
            figures[f"{name}_measured_per_second"] = num * num_envs * steps / found
            agreement.append(min(predicted / found, found / predicted))
    figures |= {
        "predicted_vs_measured_worst_ratio": min(agreement),
        "predicted_vs_measured_median_ratio": float(np.median(agreement)),
        "step_crowded_vs_alone": crowded,
        "rollout_milliseconds": costs.rollout * 1e3,
        "request_milliseconds": costs.request * 1e3,
        "join_gb_per_second": 1e-9 / costs.per_byte,
    }
    print_extrapolation(costs)
    bench.finish(figures, {"predicted_vs_measured_worst_ratio": 0.75}, {"seconds": details})


if __name__ == "__main__":
    main()
