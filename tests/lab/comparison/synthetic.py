"""Run directories in the real format, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

from lab.runs.directory import FORMAT, Run


def make_run(
    folder: Path,
    recipe: str = "dqn/cartpole",
    seed: int = 0,
    *,
    task: str = "CartPole-v1",
    fields: dict[str, Any] | None = None,
    metric: str = "eval/return",
    mode: str = "max",
    values: list[float] | None = None,
    counter: str = "env_steps",
    points: int = 50,
    budget: int = 50_000,
    status: str = "completed",
    pictures: dict[str, int] | None = None,
    gif: str | None = None,
    quality: float = 1.0,
    extra_metrics: int = 3,
) -> Run:
    """A run whose monitored metric climbs to about 500 * quality in 20 evaluations, or takes `values`."""
    generator = np.random.default_rng([seed, int(quality * 1000)])
    path = folder / f"{recipe.replace('/', '-')}-s{seed}-{len(list(folder.glob('*'))):03d}"
    path.mkdir(parents=True)
    data_field = "env" if counter == "env_steps" else "name"
    tree: dict[str, Any] = {
        "name": recipe,
        "data": {"kind": "replay" if counter == "env_steps" else "images", data_field: task, "batch_size": 64},
        "module": {"kind": recipe.partition("/")[0], "gamma": 0.99, "optimizer": {"name": "adam", "lr": 1e-3}},
        "trainer": {"budget": budget, "device": "auto", "checkpoint_seconds": 20.0},
        "tracking": {"mode": "auto", "group": None, "tags": []},
        "seed": seed,
    }
    for name, value in (fields or {}).items():
        node = tree
        *parents, last = name.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    (path / "experiment.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    evaluations = (
        values or (500 * quality * (1 - np.exp(-np.linspace(0.2, 4, 20))) + generator.normal(0, 12, 20)).tolist()
    )
    steps = np.linspace(budget / points, budget, points).astype(int)
    evaluated = set(np.linspace(points // len(evaluations) or 1, points, len(evaluations)).astype(int) - 1)
    lines, remaining = [], list(evaluations)
    for index, step in enumerate(steps):
        row: dict[str, Any] = {counter: int(step), "updates": index + 1, "seconds": round(0.001 * int(step), 3)}
        losses = {
            f"losses/part_{k}": float(np.exp(-3 * index / points) + 0.1 * generator.random())
            for k in range(extra_metrics)
        }
        lines.append(json.dumps(row | losses))
        if index in evaluated and remaining:
            lines.append(json.dumps(row | {metric: remaining.pop(0)}))
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    used = [
        {counter: int(step), "seconds": 0.001 * int(step), "system/cpu_cores": 1 + 0.1 * seed} for step in steps[::5]
    ]
    (path / "system.jsonl").write_text("".join(json.dumps(row) + "\n" for row in used))
    best = (max if mode == "max" else min)(evaluations)
    Run(path).write_result(
        {
            "format": FORMAT,
            "recipe": recipe,
            "status": status,
            "error": None,
            "seed": seed,
            "budget": budget,
            "counter": counter,
            counter: budget,
            "updates": points,
            "seconds": 0.001 * budget * (1 + 0.05 * seed),
            "metrics": {metric: evaluations[-1]},
            "monitor": {"metric": metric, "mode": mode},
            "best": {"metric": metric, "value": best, counter: budget},
            "versions": {"lab": "0.1.0"},
            "machine": {"system": "Linux", "processor": "x86_64", "cores": 2, "gpu": None},
            "git": None,
        }
    )
    for name, count in (pictures or {}).items():
        for k in range(count):
            target = path / "media" / name / f"{(k + 1) * budget // count:012d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            noise = generator.normal(128, 100 * (1 - (k + 1) / count), (66, 66))
            noise[16:50, 30:36] = 255
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(target)
    if gif is not None:
        (path / "media").mkdir(exist_ok=True)
        frames = [Image.new("RGB", (240, 160), "white") for _ in range(20)]
        for k, frame in enumerate(frames):
            draw = ImageDraw.Draw(frame)
            draw.rectangle((100 + k, 110, 150 + k, 130), fill="black")
            draw.line((125 + k, 110, 125 + k + 10 * np.sin(k / 3), 40), fill="brown", width=6)
        frames[0].save(path / "media" / gif, save_all=True, append_images=frames[1:], duration=60, loop=0)
    return Run(path)


def make_demo(folder: Path) -> None:
    """A mixed set: two agents on one environment with three seeds and two values of gamma, and two image models."""
    for gamma, quality in ((0.99, 1.0), (0.97, 0.8), (0.9, 0.5)):
        for seed in range(4):
            gif = "episode.gif" if seed == 0 else None
            make_run(folder, "dqn/cartpole", seed, fields={"module.gamma": gamma}, quality=quality, gif=gif)
    for seed in range(4):
        make_run(folder, "policy_gradient/cartpole", seed, quality=0.9, fields={"module.gae": 0.95})
    for name, bits in (("vae/digits", 30.0), ("pixelcnn/digits", 25.0)):
        values = (bits + 60 * np.exp(-np.linspace(0, 4, 20))).tolist()
        make_run(
            folder, name, 0, task="digits", metric="eval/nll", mode="min", values=values, counter="samples",
            pictures={"samples": 20, "reconstructions": 20},
        )  # fmt: skip
