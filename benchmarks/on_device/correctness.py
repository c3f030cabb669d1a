"""Is what the lab does on a device right? Each function raises AssertionError where it is not."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from on_device.common import QUIET, Setting, Skipped, distance, trained, weights

from lab.backbones import BackboneConfig
from lab.backbones.registry import build_backbone
from lab.config.overrides import resolve
from lab.runs.directory import Run
from lab.training.restore import restore
from lab.training.train import resume, train

_ATARI = {
    "dqn/pong": ("data.learning_starts=200", "data.replay.capacity=10000"),
    "ppo/pong": ("data.num_envs=4", "data.num_steps=16", "module.minibatch_size=32"),
}
_SMALL_IMAGES = ("data.name=digits", "data.binarize=threshold", "data.batches_per_step=2")
FAMILIES: dict[str, tuple[str, ...]] = {
    "dqn/cartpole": (),
    "dqn/cartpole-rainbow": (),
    "recurrent-q/cartpole-positions": (),
    "q-learning/frozen-lake": (),
    "ppo/cartpole": (),
    "ppo/pendulum": (),
    "ppo/cartpole-positions": (),
    "ppo/cartpole-wide": (),
    "pg/cartpole": (),
    "pg/a2c-cartpole": (),
    "impala/cartpole": (),
    **_ATARI,
    "autoencoder/digits": (),
    "vae/digits": (),
    "hierarchical-vae/digits": (),
    "helmholtz/digits": (),
    "vq-vae/digits": (),
    "gan/digits": (),
    "pixelcnn/digits": (),
    "pixelcnn/binarized-mnist-row-lstm": (*_SMALL_IMAGES, "module.backbone.layers=2"),
    "pixelcnn/binarized-mnist-diagonal-bilstm": (*_SMALL_IMAGES, "module.backbone.layers=2"),
    "classifier/digits-cnn": (),
    "classifier/digits-lstm": (),
    "lm/reference-gru": (),
}
_NEAR = 2e-3
"""of the weights' norm: what the order of sums may change in some dozens of updates"""


def trains(setting: Setting, recipe: str) -> dict[str, Any]:
    """A recipe trains for some seconds, and all that it tells is finite."""
    needs_atari(recipe)
    with tempfile.TemporaryDirectory() as folder:
        seconds = 1.0 if setting.quick else 10.0
        run = trained(recipe, setting, Path(folder) / "run", *FAMILIES[recipe], f"trainer.max_seconds={seconds}")
        rows, result = run.metrics(), run.result()
    values = {name: value for row in rows for name, value in row.items() if isinstance(value, float)}
    broken = {name: value for name, value in values.items() if not math.isfinite(value)}
    assert not broken, f"{recipe} tells {broken}"
    assert result["updates"] > 0, f"{recipe} made no update in {seconds} s"
    return {"updates": float(result["updates"]), "updates_per_second": result["updates"] / result["seconds"]}


def engines_agree(setting: Setting, recipe: str) -> dict[str, Any]:
    """Recorded updates (on a GPU captured CUDA graphs) end at the weights of eager autograd."""
    budget = {"dqn": 2_000, "ppo": 2_048}.get(recipe.partition("/")[0], 640 if setting.quick else 6_400)
    ends = {}
    with tempfile.TemporaryDirectory() as folder:
        for engine in ("traced", "eager"):
            words = (f"trainer.engine={engine}", f"trainer.budget={budget}", "trainer.deterministic=true")
            ends[engine] = weights(trained(recipe, setting, Path(folder) / engine, *words))
    apart = distance(ends["eager"], ends["traced"])
    assert apart < _NEAR, f"{recipe}: recorded and eager weights are {apart:.2g} apart (at most {_NEAR})"
    return {"distance": apart}


def resumes(setting: Setting, recipe: str) -> dict[str, Any]:
    """A run that was killed by SIGKILL goes on, and ends as one that was not."""
    budget = {"dqn/cartpole": 6_000}.get(recipe, 10_000 if setting.quick else 40_000)
    words = [*QUIET, f"trainer.device={setting.device}", f"trainer.budget={budget}", "trainer.deterministic=true"]
    words += ["trainer.checkpoint_seconds=0.1", f"trainer.log_period={budget // 50}"]
    with tempfile.TemporaryDirectory() as folder:
        whole = train(resolve(recipe, words), run_dir=Path(folder) / "whole").run
        path = Path(folder) / "killed"
        command = [sys.executable, "-m", "lab.cli", "train", recipe, *words, "--out", str(path), "--quiet"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and not saved_midway(path, budget):
            time.sleep(0.01)
        killed = process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert killed, f"{recipe} ended before it could be killed"
        run = Run.open(path)
        at = run.metrics()[-1]
        resumed = train(run.experiment(), resume=run).run
        apart = distance(weights(whole), weights(resumed))
        equal = all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    assert apart < _NEAR, f"{recipe}: a resumed run is {apart:.2g} apart from an undisturbed one"
    return {
        "killed_at": float(next(value for name, value in at.items() if name in ("env_steps", "samples"))),
        "distance": apart,
        "bits_equal": float(equal),
    }


def saved_midway(path: Path, budget: int) -> bool:
    """Whether a run has a checkpoint and is past a third of its budget."""
    if not (path / "checkpoints" / "last.ckpt").is_file():
        return False
    rows = Run(path).metrics()
    return bool(rows) and max(rows[-1].get("env_steps", 0), rows[-1].get("samples", 0)) > budget / 3


def moves(setting: Setting, recipe: str) -> dict[str, Any]:
    """A checkpoint of the device gives the same outputs on the CPU, and its run goes on there; and the other way."""
    figures = {}
    other = {"cuda": "cpu", "cpu": "cuda" if torch.cuda.is_available() else "cpu"}[setting.device]
    with tempfile.TemporaryDirectory() as folder:
        for here, there in dict.fromkeys([(setting.device, other), (other, setting.device)]):
            budget = 2_000
            run = trained(recipe, Setting(here, setting.seconds), Path(folder) / here, f"trainer.budget={budget}")
            measured = []
            for device in (here, there):
                _, data, module, _ = restore(run, "last", [f"trainer.device={device}"])
                with torch.no_grad():
                    measured.append(
                        module.evaluate(data, "test", **({"episodes": 3} if recipe.startswith("dqn") else {}))
                    )
            name = next(name for name in measured[0] if name.startswith("eval/") and "second" not in name)
            figures[f"{here}_to_{there}_difference"] = abs(measured[0][name] - measured[1][name])
            words = [f"trainer.device={there}", f"trainer.budget={2 * budget}"]
            ended = resume(run, *words)
            assert ended.status == "completed", f"{recipe}: the run of {here} did not end on {there}"
            assert all(torch.isfinite(value).all() for value in weights(run).values() if value.is_floating_point())
    worst = max(figures.values())
    assert worst < 1e-2, f"{recipe}: evaluations differ by {worst:.2g} between devices"
    return figures


def bf16(setting: Setting, recipe: str) -> dict[str, Any]:
    """Training in bfloat16 reaches what float32 does, to ten per cent."""
    ends, budget = {}, 3_000 if setting.quick else 20_000
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("32", "bf16"):
            words = (f"trainer.budget={budget}", f"trainer.precision={precision}", f"trainer.eval_period={budget}")
            run = trained(recipe, setting, Path(folder) / precision, *words)
            ends[precision] = run.result()["best"]["value"]
    apart = abs(ends["bf16"] - ends["32"]) / abs(ends["32"])
    assert apart < 0.1, f"{recipe}: bfloat16 ends at {ends['bf16']:.4g}, float32 at {ends['32']:.4g}"
    return {"float32": ends["32"], "bf16": ends["bf16"], "relative_difference": apart}


def channels_last(setting: Setting) -> dict[str, Any]:
    """A convolutional backbone gives the same features and gradients in channels-last order."""
    torch.manual_seed(0)
    net = build_backbone(BackboneConfig("resnet"), (3, 32, 32)).to(setting.device)
    x = torch.rand(16, 3, 32, 32, device=setting.device)
    found = []
    for order in (torch.contiguous_format, torch.channels_last):
        net.to(memory_format=order)
        net.zero_grad()
        features = net(x.to(memory_format=order))
        features.square().sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in net.parameters()])
        found.append((features.detach(), gradients))
    apart = [float((a - b).norm() / a.norm()) for a, b in zip(*found, strict=True)]
    assert max(apart) < 1e-3, f"channels-last features and gradients are {apart} apart"
    return {"features_distance": apart[0], "gradients_distance": apart[1]}


_HALF = """
import sys, time
import torch
torch.cuda.set_per_process_memory_fraction(0.5)
total = torch.cuda.get_device_properties(0).total_memory
kept = torch.empty(int(0.35 * total), dtype=torch.uint8, device="cuda")
print("has a third", flush=True)
sys.stdin.readline()
try:
    torch.empty(int(0.3 * total), dtype=torch.uint8, device="cuda")
    print("took more than its half")
except torch.OutOfMemoryError:
    print("is held to its half")
"""


def halves(setting: Setting) -> dict[str, Any]:
    """Two processes share a GPU's memory: each gets a third of it, and none more than its half."""
    if setting.device != "cuda":
        raise Skipped("a CPU's memory is not shared out")
    pipe = subprocess.PIPE
    pair = [subprocess.Popen([sys.executable, "-c", _HALF], stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    began = [process.stdout.readline().strip() for process in pair]
    ended = [process.communicate("\n")[0].strip() for process in pair]
    assert began == ["has a third"] * 2, began
    assert ended == ["is held to its half"] * 2, ended
    return {"processes": 2.0}


def exports(setting: Setting, recipe: str) -> dict[str, Any]:
    """A network that was trained on the device gives the same outputs as torch.export."""
    if importlib.util.find_spec("onnx") is None:
        raise Skipped("onnx is not installed")
    with tempfile.TemporaryDirectory() as folder:
        run = trained(recipe, setting, Path(folder) / "run", "trainer.budget=2000", "trainer.eval_period=1000")
        command = [sys.executable, "-m", "lab.cli", "export", str(run.path), "--json"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        differences = json.loads(ended.stdout)["largest_difference"]
    return {f"largest_difference_of_{name}": value for name, value in differences.items()}


def cuda_tests(setting: Setting) -> dict[str, Any]:
    """The project's tests that need a GPU."""
    if setting.device != "cuda":
        raise Skipped("they need a GPU")
    if importlib.util.find_spec("pytest") is None:
        raise Skipped("pytest is not installed")
    root = Path(__file__).resolve().parents[2]
    files = [str(path) for path in (root / "tests").rglob("test_*.py") if "needs a GPU" in path.read_text()]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-o",
        "addopts=",
        *files,
    ]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=root, env={**os.environ}, check=False)
    assert ended.returncode == 0, ended.stdout[-1500:]
    words = ended.stdout.strip().splitlines()[-1].split()
    return {"passed": float(words[words.index("passed,") - 1 if "passed," in words else words.index("passed") - 1])}


def needs_atari(recipe: str) -> None:
    """Skip a game where there is none."""
    if recipe in _ATARI and importlib.util.find_spec("ale_py") is None:
        raise Skipped("ale-py is not installed")
