"""lab play: a trained agent in its environment, or another of the same spaces: in a window, a film, the terminal.

With `--human` a person plays instead (agents/human.py). `--record` keeps the episodes as a data set.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.cli import add_override_arguments
from lab.errors import UserError

if TYPE_CHECKING:
    from agents.agent import Agent
    from agents.demonstrations import Recorder
    from agents.policies import Policy
    from agents.screens import OnFrame
    from agents.types import Episode
    from agents.video import Frame

RENDERERS = ("auto", "human", "ansi", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_override_arguments(parser, "a run directory", nargs="?")
    parser.add_argument("--human", metavar="ENV", help="play an environment yourself, with the keyboard")
    parser.add_argument("--keys", metavar="KEYS", help="with --human: your own keys, e.g. 'left=0 right=1'")
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
    parser.add_argument(
        "--explain",
        action="store_true",
        help="show probabilities or values of the actions beside the frame, for image policies also a saliency map",
    )
    parser.add_argument(
        "--record", type=Path, metavar="FOLDER", help="keep the episodes as a data set (bc/... recipes)"
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--greedy", action="store_true", help="the best action, or the mean (default)")
    choice.add_argument("--sample", action="store_true", help="actions drawn as in training")
    parser.add_argument("--slow", action="store_true", help="a quarter of the environment's own speed")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.episodes < 1:
        raise UserError(f"--episodes {arguments.episodes} is not a number of episodes; give 1 or more.")
    if arguments.video is not None:
        from agents.video import check_video_path

        check_video_path(arguments.video)
    if arguments.human is not None:
        from agents import human

        return human.run(arguments)
    if arguments.target is None:
        raise UserError("say which run is to play (lab list --runs), or --human ENV to play yourself.")
    if arguments.keys is not None:
        raise UserError("--keys belongs to --human ENV.")
    render = _renderer(arguments.render)

    from lab.runs import Run
    from lab.train import restore

    experiment, data, module, _ = restore(Run.open(arguments.target), arguments.checkpoint, arguments.overrides)
    data.close()

    from agents.agent import Agent
    from agents.experience import EnvironmentData

    if not isinstance(module, Agent) or not isinstance(experiment.data, EnvironmentData):
        raise UserError(f"run {arguments.target!r} is no agent ({experiment.name}); lab sample or lab evaluate it.")
    env_id = arguments.env or experiment.data.env
    options = experiment.data.env_options if arguments.env in (None, experiment.data.env) else {}
    episodes = _watch(module, env_id, options, render, arguments)
    report(episodes, env_id, arguments)
    return 0


def _watch(
    agent: Agent, env_id: str, options: dict[str, Any], render: str, arguments: argparse.Namespace
) -> list[Episode]:
    """Play on the screens, into the film and the data set that were asked for."""
    from agents.demonstrations import Recorder
    from agents.screens import Film, Terminal, Window, to_all, use_display
    from agents.video import write_video

    if arguments.explain and render == "none" and arguments.video is None:
        raise UserError("--explain has nowhere to be shown here: add --render ansi or --video play.gif.")
    own_window = render == "human" and arguments.explain
    use_display(render == "human")
    film = Film() if arguments.video is not None else None
    window = Window(f"{arguments.target}: {env_id}") if own_window else None
    terminal = Terminal() if render == "ansi" else None
    screens: list[OnFrame] = [screen for screen in (film, window, terminal) if screen is not None]
    recorder = None
    if arguments.record is not None:
        recorder = Recorder(arguments.record, env_id, options, agent.data_spec, str(arguments.target))
    try:
        episodes = play(
            agent.policy,
            env_id,
            arguments.episodes,
            seed=arguments.seed,
            options=options,
            sample=arguments.sample,
            render="none" if own_window else render,
            on_frame=to_all(screens),
            explain=arguments.explain,
            pace=(4.0 if arguments.slow else 1.0) if render != "none" else 0.0,
            recorder=recorder,
            stop=None if window is None else lambda: window.closed,
        )
    finally:
        if window is not None:
            window.close()
    if film is not None and film.num_frames:
        write_video(arguments.video, film.frames, fps_of(env_id, options))
    return episodes


def play(
    policy: Policy,
    env_id: str,
    num_episodes: int,
    *,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    sample: bool = False,
    render: str = "none",
    on_frame: OnFrame | None = None,
    explain: bool = False,
    pace: float = 0.0,
    max_steps: int | None = None,
    recorder: Recorder | None = None,
    stop: Callable[[], bool] | None = None,
) -> list[Episode]:
    """Play episodes one after the other.

    Args:
        sample: draw actions as in training; otherwise greedy, or the mean.
        render: "human" opens the environment's own window.
        on_frame: called with each picture (H, W, 3), and with what the policy thought (None unless `explain`).
        pace: 1 is the environment's own speed, 4 a quarter of it, 0 as fast as it goes.
        max_steps: stop after so many steps in all, in the middle of an episode if need be.
        recorder: keeps what was seen and done.
        stop: asked after each step whether to end.

    Raises:
        UserError: when the environment cannot be made, drawn, or has other spaces than the policy.
    """
    import torch

    from agents.collector import as_tensor
    from agents.controls import action_names
    from agents.envs import InProcessEnvs, make_env, with_limit
    from agents.screens import use_display
    from agents.types import Episode

    mode = "human" if render == "human" else ("rgb_array" if on_frame else None)
    use_display(render == "human")
    envs = InProcessEnvs([lambda: make_env(env_id, with_limit(env_id, options), render_mode=mode)])
    try:
        frame_seconds = pace / fps_of(env_id, options) if pace and render != "human" else 0.0
        generator = torch.Generator().manual_seed(seed)
        device = next(policy.parameters()).device
        obs, state = envs.reset(seed), policy.initial_state(1)
        explainer = None
        if explain and on_frame is not None:
            from agents.explain import Explainer

            names = action_names(env_id, envs.envs[0], envs.spec.outputs)
            explainer = Explainer(policy, envs.spec.outputs, names, as_tensor(obs, device))
        episodes: list[Episode] = []
        total, length, taken = 0.0, 0, 0
        with torch.no_grad():
            while len(episodes) < num_episodes and taken != max_steps and not (stop is not None and stop()):
                began = time.perf_counter()
                noise = policy.draw_noise(1, 1, generator)[0].to(device) if sample else None
                try:
                    seen = as_tensor(obs, device)
                    explanation = None if explainer is None else explainer.explain(seen, state)
                    if on_frame is not None:
                        on_frame(picture(envs.envs[0], env_id), explanation)
                    action, state, _ = policy.act(seen, state, noise)
                    chosen = policy.env_action(action).cpu().numpy()
                    step = envs.step(chosen)
                except (RuntimeError, IndexError, KeyError, AssertionError) as error:
                    reason = " ".join(str(error).split())[:200]
                    raise UserError(f"environment {env_id!r} does not fit this agent: {reason}") from None
                if recorder is not None:
                    recorder.add(obs, chosen, step)
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
    from agents.screens import has_display, no_display

    if wanted == "human" and not has_display():
        raise no_display("--render human", "--render ansi, --video play.gif")
    if wanted == "auto":
        return "human" if has_display() else "none"
    return wanted


def picture(env: Any, env_id: str) -> Frame:
    """What an environment looks like now. Raises UserError when it cannot be drawn."""
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


def report(episodes: list[Episode], env_id: str, arguments: argparse.Namespace) -> None:
    """Print returns and lengths, as a table or as JSON."""
    import numpy as np

    if not episodes:
        print("no episode was finished.")
        return
    returns = [episode.episode_return for episode in episodes]
    if arguments.json:
        rows = [{"return": episode.episode_return, "length": episode.length} for episode in episodes]
        summary = {"return_mean": float(np.mean(returns)), "return_std": float(np.std(returns))}
        video, record = (str(path) if path else None for path in (arguments.video, arguments.record))
        print(json.dumps({"env": env_id, "episodes": rows, **summary, "video": video, "record": record}, indent=2))
        return
    print(f"{'episode':>7}  {'return':>10}  {'length':>6}")
    for i, episode in enumerate(episodes, 1):
        print(f"{i:>7}  {episode.episode_return:>10.4g}  {episode.length:>6}")
    print(f"return {np.mean(returns):.4g} +- {np.std(returns):.3g} over {len(episodes)} episodes of {env_id}")
    if arguments.video is not None:
        print(f"film: {arguments.video}")
    if arguments.record is not None:
        print(f"data set: {arguments.record} (lab train bc/... data.path={arguments.record})")
