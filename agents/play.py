"""lab play: a trained agent in its environment, or another of the same spaces: in a window, a film, the terminal."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.cli import add_override_arguments
from lab.errors import UserError

if TYPE_CHECKING:
    from agents.policies import Policy
    from agents.types import Episode
    from agents.video import Frame

RENDERERS = ("auto", "human", "ansi", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_override_arguments(parser, "a run directory")
    parser.add_argument("--env", help="another environment with the same spaces (default: the one it trained in)")
    parser.add_argument("--episodes", type=int, default=5, help="how many to play (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the environment and of sampled actions (default: 0)")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="which weights (default: best)")
    parser.add_argument(
        "--render",
        choices=RENDERERS,
        default="auto",
        help="a window (human), coloured blocks in the terminal (ansi), or nothing; auto: a window if it can",
    )
    parser.add_argument("--video", type=Path, metavar="FILE", help="also write a .gif or .mp4 of all episodes")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--greedy", action="store_true", help="the best action, or the mean (default)")
    choice.add_argument("--sample", action="store_true", help="actions drawn as in training")
    parser.add_argument("--slow", action="store_true", help="a quarter of the environment's own speed")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.episodes < 1:
        raise UserError(f"--episodes {arguments.episodes} is not a number of episodes; give 1 or more.")
    render = _renderer(arguments.render)
    if arguments.video is not None:
        from agents.video import check_video_path

        check_video_path(arguments.video)

    from lab.runs import Run
    from lab.train import restore

    experiment, data, module, _ = restore(Run.open(arguments.target), arguments.checkpoint, arguments.overrides)
    data.close()

    from agents.agent import Agent
    from agents.experience import EnvData

    if not isinstance(module, Agent) or not isinstance(experiment.data, EnvData):
        raise UserError(f"run {arguments.target!r} is no agent ({experiment.name}); lab sample or lab evaluate it.")
    env_id = arguments.env or experiment.data.env
    options = experiment.data.env_options if arguments.env in (None, experiment.data.env) else {}
    frames: list[Frame] = []
    episodes = play(
        module.policy,
        env_id,
        arguments.episodes,
        seed=arguments.seed,
        options=options,
        sample=arguments.sample,
        render=render,
        on_frame=_on_frame(render, frames if arguments.video else None),
        pace=(4.0 if arguments.slow else 1.0) if render != "none" else 0.0,
    )
    if arguments.video is not None:
        from agents.video import write_video

        write_video(arguments.video, frames, fps_of(env_id, options))
    _report(episodes, env_id, arguments)
    return 0


def play(
    policy: Policy,
    env_id: str,
    num_episodes: int,
    *,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    sample: bool = False,
    render: str = "none",
    on_frame: Callable[[Frame], None] | None = None,
    pace: float = 0.0,
    max_steps: int | None = None,
) -> list[Episode]:
    """Play episodes one after the other.

    Args:
        sample: draw actions as in training; otherwise greedy, or the mean.
        render: "human" opens the environment's own window.
        on_frame: called with each picture (H, W, 3).
        pace: 1 is the environment's own speed, 4 a quarter of it, 0 as fast as it goes.
        max_steps: stop after so many steps in all, in the middle of an episode if need be.

    Raises:
        UserError: when the environment cannot be made, drawn, or has other spaces than the policy.
    """
    import torch

    from agents.collector import as_tensor
    from agents.envs import InProcessEnvs, make_env
    from agents.types import Episode

    mode = "human" if render == "human" else ("rgb_array" if on_frame else None)
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # pygame complains aloud where there is no sound card
    if render != "human":
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    envs = InProcessEnvs([lambda: make_env(env_id, options, render_mode=mode)])
    try:
        frame_seconds = pace / fps_of(env_id, options) if pace and render != "human" else 0.0
        generator = torch.Generator().manual_seed(seed)
        device = next(policy.parameters()).device
        obs, state = envs.reset(seed), policy.initial_state(1)
        episodes: list[Episode] = []
        total, length, taken = 0.0, 0, 0
        with torch.no_grad():
            while len(episodes) < num_episodes and taken != max_steps:
                began = time.perf_counter()
                if on_frame is not None:
                    on_frame(_picture(envs.envs[0], env_id))
                noise = policy.draw_noise(1, 1, generator)[0].to(device) if sample else None
                try:
                    action, state, _ = policy.act(as_tensor(obs, device), state, noise)
                    step = envs.step(policy.env_action(action).cpu().numpy())
                except (RuntimeError, IndexError, KeyError, AssertionError) as error:
                    reason = " ".join(str(error).split())[:200]
                    raise UserError(f"environment {env_id!r} does not fit this agent: {reason}") from None
                total, length, obs = total + float(step.reward[0]), length + 1, step.obs
                taken += 1
                if step.terminated[0] or step.truncated[0]:
                    episodes.append(Episode(total, length))
                    total, length, state = 0.0, 0, policy.initial_state(1)
                if frame_seconds:
                    time.sleep(max(0.0, frame_seconds - (time.perf_counter() - began)))
        return episodes
    finally:
        envs.close()


def _renderer(wanted: str) -> str:
    display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) or sys.platform in (
        "darwin",
        "win32",
    )
    if wanted == "human" and not display:
        raise UserError("--render human: there is no display here. Valid choices: --render ansi, --video play.gif.")
    if wanted == "auto":
        return "human" if display else "none"
    return wanted


def _on_frame(render: str, frames: list[Frame] | None) -> Callable[[Frame], None] | None:
    if frames is None and render != "ansi":
        return None

    def on_frame(frame: Frame) -> None:
        if frames is not None:
            frames.append(frame)
        if render == "ansi":
            from agents.video import to_blocks

            sys.stdout.write("\x1b[H" + to_blocks(frame, min(shutil.get_terminal_size().columns, 100)) + "\n")
            sys.stdout.flush()

    if render == "ansi":
        sys.stdout.write("\x1b[2J")
    return on_frame


def _picture(env: Any, env_id: str) -> Frame:
    import numpy as np

    frame = env.render()
    if not isinstance(frame, np.ndarray) or frame.ndim != 3:
        raise UserError(f"environment {env_id!r} cannot be drawn as pictures (render_mode='rgb_array').")
    return np.asarray(frame, np.uint8)


def fps_of(env_id: str, options: dict[str, Any] | None) -> float:
    """Frames a second at an environment's own speed."""
    from agents.envs import make_env

    env = make_env(env_id, options)
    try:
        return float(env.metadata.get("render_fps") or 30)
    finally:
        env.close()


def _report(episodes: list[Episode], env_id: str, arguments: argparse.Namespace) -> None:
    import numpy as np

    returns = [episode.episode_return for episode in episodes]
    if arguments.json:
        rows = [{"return": episode.episode_return, "length": episode.length} for episode in episodes]
        summary = {"return_mean": float(np.mean(returns)), "return_std": float(np.std(returns))}
        video = str(arguments.video) if arguments.video else None
        print(json.dumps({"env": env_id, "episodes": rows, **summary, "video": video}, indent=2))
        return
    print(f"{'episode':>7}  {'return':>10}  {'length':>6}")
    for i, episode in enumerate(episodes, 1):
        print(f"{i:>7}  {episode.episode_return:>10.4g}  {episode.length:>6}")
    print(f"return {np.mean(returns):.4g} +- {np.std(returns):.3g} over {len(episodes)} episodes of {env_id}")
    if arguments.video is not None:
        print(f"film: {arguments.video}")
