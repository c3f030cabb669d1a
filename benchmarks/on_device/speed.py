"""How fast is it, beside plain PyTorch loops and beside itself without recorded updates? Steps or images a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from on_device import plain_loops
from on_device.common import Setting, in_turn, rate
from on_device.correctness import needs_atari

from generative.autoregressive.pixelcnn import PixelCNNConfig
from lab.backbones import BackboneConfig
from lab.config.overrides import resolve
from lab.data.images import ImageArrays, ImageData, ImageModule
from lab.data.resident import Batch
from lab.data.spec import DataSpec, TensorSpec
from lab.supervised.supervised import SupervisedConfig


def ppo(setting: Setting, num_envs: str) -> dict[str, Any]:
    """PPO at CleanRL's defaults in CartPole; in 1,024 environments 16 steps and 8 minibatches."""
    num = int(num_envs)
    steps, minibatches = (16, 8) if num >= 1024 else (128, 4)
    words = [f"data.num_envs={num}", f"data.num_steps={steps}", "data.rounds=1", "module.gamma=0.99"]
    words += ["module.gae_lambda=0.95", "module.epochs=4", f"module.minibatch_size={num * steps // minibatches}"]
    words += ["module.value_clip=0.2", "module.entropy_coef=0.01"]
    lab = {engine: agent("ppo/cartpole", words, setting, engine) for engine in ("traced", "eager")}
    return in_turn(
        {
            "lab": lab["traced"],
            "loop": plain_loops.ppo(num, steps, 4, minibatches, setting.device),
            "lab_eager": lab["eager"],
        },
        setting,
    )


def dqn(setting: Setting, num_envs: str) -> dict[str, Any]:
    """DQN in CartPole: 120-84, batch 128, an update for each 16 steps (1,024: for each step of all)."""
    num = int(num_envs)
    per_update = max(16, num)
    words = [f"data.num_envs={num}", f"data.num_steps={per_update // num}", "data.rounds=50"]
    words += ["data.replay.n_step=1", "data.replay.capacity=100000", "data.replay.priority=null"]
    words += ["data.learning_starts=1000", "module.backbone.hidden=[120,84]", "module.batch_size=128"]
    words += ["module.double=false", "module.loss=mse", "module.gamma=0.99", "module.initial_reward=0"]
    words += ["module.target_tau=0", "module.target_period=50", f"module.updates_per_env_step={1 / per_update}"]
    lab = {engine: agent("dqn/cartpole", words, setting, engine) for engine in ("traced", "eager")}
    return in_turn(
        {
            "lab": lab["traced"],
            "loop": plain_loops.dqn(num, per_update, 128, setting.device),
            "lab_eager": lab["eager"],
        },
        setting,
    )


def agent(recipe: str, overrides: list[str], setting: Setting, engine: str) -> Callable[[], int]:
    """One training step of an agent, which returns its environment steps."""
    experiment = resolve(recipe, overrides)
    data = experiment.data.build(0)
    torch.manual_seed(0)
    module = experiment.module.build(data.spec).to(setting.device)
    data.to(torch.device(setting.device))
    module.set_engine(engine)
    if hasattr(data, "open_buffer"):
        data.open_buffer(experiment.module.gamma, torch.device(setting.device))

    def step() -> int:
        before = module.counters["env_steps"]
        module.set_progress(0.5)
        module.training_step(data.next_chunk())
        return module.counters["env_steps"] - before

    return step


def pong_dqn(setting: Setting) -> dict[str, Any]:
    """Agent steps a second of DQN in eight games of Pong: collecting alone, and with an update every four steps."""
    needs_atari("dqn/pong")
    words = ["data.replay.capacity=20000", "data.num_envs=8", "data.num_steps=4", "data.rounds=8"]
    collecting = agent("dqn/pong", [*words, "data.learning_starts=1000000"], setting, "traced")
    learning = agent("dqn/pong", [*words, "data.learning_starts=400"], setting, "traced")
    eager = agent("dqn/pong", [*words, "data.learning_starts=400"], setting, "eager")
    steps = {"learning": learning, "learning_eager": eager, "collecting": collecting}
    return in_turn(steps, setting, repeats=3)


def pong_ppo(setting: Setting) -> dict[str, Any]:
    """Agent steps a second of PPO in 64 games of Pong."""
    needs_atari("ppo/pong")
    words = ["data.num_envs=4", "data.num_steps=8", "module.minibatch_size=16"] if setting.quick else []
    steps = {f"ppo_{engine}": agent("ppo/pong", words, setting, engine) for engine in ("traced", "eager")}
    return in_turn(steps, setting, repeats=3)


def pixelcnn_sampling(setting: Setting) -> dict[str, Any]:
    """Binary 28x28 images a second from a Gated PixelCNN of 3.3 million parameters; naive: 784 forward passes."""
    torch.manual_seed(0)
    channels, layers, num = (16, 3, 4) if setting.quick else (128, 10, 64)
    config = PixelCNNConfig(backbone=BackboneConfig("gated_pixelcnn", channels=channels, layers=layers))
    spec = DataSpec(TensorSpec((1, 28, 28), torch.float32, 0.0, 1.0, 2))
    model = config.build(spec).to(setting.device).eval()
    images = torch.rand(num, 1, 28, 28, device=setting.device)

    def sample() -> int:
        with torch.no_grad():
            model.sample(num)
        return num

    def forward() -> int:
        with torch.no_grad():
            model.net(images)
        return num

    sample()
    figures = {"samples_per_second": rate(sample, setting, setting.seconds / 2)}
    figures["naive_samples_per_second"] = rate(forward, setting, setting.seconds / 4) / 784
    return figures | {"samples_vs_naive_ratio": figures["samples_per_second"] / figures["naive_samples_per_second"]}


def pixelcnn_training(setting: Setting) -> dict[str, Any]:
    """Updates of the PixelCNN of `benchmarks/pixelcnn_training.py`, beside masked convolutions in a plain loop."""
    import pixelcnn_training as peer

    torch.manual_seed(0)
    x = (torch.rand(peer.BATCH, *peer.SHAPE, device=setting.device) < 0.3).float()
    labels = torch.zeros(peer.BATCH, dtype=torch.int64, device=setting.device)
    net = peer.peer_net().to(setting.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    compiled = torch.compile(net) if setting.device == "cuda" else None

    def lab(engine: str) -> Callable[[], int]:
        learner = peer.lab_learner("pixelcnn").to(setting.device)
        learner.set_engine(engine)

        def step() -> int:
            learner.updater.step(Batch(x, labels))
            return len(x)

        return step

    def plain(network: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], int]:
        def step() -> int:
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x), x, reduction="none")
            loss.sum((1, 2, 3)).mean().backward()
            optimizer.step()
            return len(x)

        return step

    steps = {"lab": lab("traced"), "loop": plain(net), "lab_eager": lab("eager")}
    return in_turn(steps | ({"loop_compiled": plain(compiled)} if compiled is not None else {}), setting)


def vae(setting: Setting) -> dict[str, Any]:
    """Images a second of a VAE of 820 k parameters at batch 128."""
    data = images((28, 28), setting)
    rows = torch.rand(10_000, 784, device=setting.device)
    words = ["data.batch_size=128", "data.batches_per_step=50"]
    steps = {
        "lab": learner("vae/mnist", words, data, setting, "traced"),
        "loop": plain_loops.vae(rows, 128, compiled=False),
        "lab_eager": learner("vae/mnist", words, data, setting, "eager"),
    }
    if setting.device == "cuda":
        steps["loop_compiled"] = plain_loops.vae(rows, 128, compiled=True)
    return in_turn(steps, setting)


def dcgan(setting: Setting) -> dict[str, Any]:
    """Images a second of a DCGAN on 28x28 images at batch 64, each seen by both networks."""
    import gan_speed

    data = images((28, 28), setting, batch_size=gan_speed.BATCH)
    model = resolve("gan/mnist", ["module.r1=0", "module.conditional=false"]).module.build(data.spec).to(setting.device)
    update = gan_speed.bare_loop(model, torch.rand(10_000, 1, 28, 28, device=setting.device))

    def bare() -> int:
        update()
        return gan_speed.BATCH

    words = ["module.r1=0", "module.conditional=false", "data.batch_size=64", "data.batches_per_step=10"]
    return in_turn({"lab": learner("gan/mnist", words, data, setting, "eager"), "loop": bare}, setting)


def resnet(setting: Setting) -> dict[str, Any]:
    """Images a second of the small residual network on 32x32 colour images at batch 256 (quick: 32), float32."""
    batch = 32 if setting.quick else 256
    data = images((32, 32, 3), setting, batch_size=batch)
    words = ["module.backbone={name: resnet}", f"data.batch_size={batch}", "data.batches_per_step=10"]

    def plain(compiled: bool) -> Callable[[], int]:
        net = SupervisedConfig(backbone=BackboneConfig("resnet")).build(data.spec).net.to(setting.device)
        x = torch.randint(0, 256, (10_000, 3, 32, 32), dtype=torch.uint8, device=setting.device)
        y = torch.randint(0, 10, (10_000,), device=setting.device)
        return plain_loops.supervised(torch.compile(net) if compiled else net, x, y, batch, fused=True)

    steps = {
        "lab": learner("classifier/mnist-cnn", words, data, setting, "traced"),
        "loop": plain(compiled=False),
        "lab_eager": learner("classifier/mnist-cnn", words, data, setting, "eager"),
    }
    return in_turn(steps | ({"loop_compiled": plain(compiled=True)} if setting.device == "cuda" else {}), setting)


def images(shape: tuple[int, ...], setting: Setting, batch_size: int = 128) -> ImageModule:
    """Ten thousand random images with labels, on the device."""
    x = np.random.default_rng(0).integers(0, 256, (10_000, *shape), dtype=np.uint8)
    y = np.arange(len(x)) % 10
    config = ImageData(batch_size=batch_size, batches_per_step=10)
    module = ImageModule(config, ImageArrays((x, y), (x[:100], y[:100])), 0)
    module.to(torch.device(setting.device))
    return module


def learner(recipe: str, overrides: list[str], data: ImageModule, setting: Setting, engine: str) -> Callable[[], int]:
    """One chunk of a model's updates, which returns its images."""
    torch.manual_seed(0)
    module = resolve(recipe, overrides).module.build(data.spec).to(setting.device)
    module.set_engine(engine)

    def step() -> int:
        before = module.counters["samples"]
        module.training_step(data.next_chunk())
        return module.counters["samples"] - before

    return step
