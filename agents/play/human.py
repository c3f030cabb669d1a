"""lab play --human ENV: a person plays with the keyboard, and the episodes can be kept as a data set.

Time goes on at the environment's own pace while it has an action for no key, and stands still without a key where it
has none (CartPole, FrozenLake). Escape or closing the window ends; the episode that was under way is left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.envs.display import has_display, no_display, use_display
from agents.envs.make import InProcessEnvs, make_env
from agents.play.demonstrations import Recorder
from agents.play.key_bindings import ActionValue, Controls, action_names, controls_of
from agents.play.screens import Film, Window
from agents.types import Episode
from lab.errors import UserError

if TYPE_CHECKING:
    from agents.play.screens import OnFrame

_SOURCE = "human"
_TURN_SECONDS = 0.2
"""a key that is held where time stands still without one counts as pressed again after so long"""


def run(arguments: argparse.Namespace) -> int:
    """Play as `lab play --human` was asked to. Raises UserError without a display."""
    if arguments.target is not None or arguments.explain or arguments.sample:
        raise UserError("--human ENV takes no run, and no --explain or --sample: it is you who plays.")
    if not has_display():
        raise no_display("--human needs a window", "a machine with a screen, or lab play RUN --record FOLDER")
    from agents.commands.play import report
    from agents.episodes import fps_of
    from agents.play.video import write_video

    use_display(True)
    envs = InProcessEnvs([lambda: make_env(arguments.human, None, render_mode="rgb_array")])
    window = None
    try:
        controls = controls_of(arguments.human, envs.envs[0], envs.spec.outputs, arguments.keys)
        names = action_names(arguments.human, envs.envs[0], envs.spec.outputs)
        recorder = None
        if arguments.record is not None:
            recorder = Recorder(arguments.record, arguments.human, {}, envs.spec, _SOURCE)
        if not arguments.json:
            print("\n".join([*controls.lines(names), "      escape  end"]), flush=True)
        film = Film() if arguments.video is not None else None
        window = Window(f"{arguments.human}: {arguments.episodes} episodes, Escape ends")
        episodes = play_by_hand(
            envs,
            arguments.human,
            controls,
            window,
            arguments.episodes,
            seed=arguments.seed,
            frame_seconds=(4.0 if arguments.slow else 1.0) / fps_of(arguments.human, None),
            recorder=recorder,
            also=film,
        )
    finally:
        envs.close()
        if window is not None:
            window.close()
    if film is not None and film.num_frames:
        write_video(arguments.video, film.frames, fps_of(arguments.human, None))
    report(episodes, arguments.human, arguments)
    return 0


def play_by_hand(
    envs: InProcessEnvs,
    env_id: str,
    controls: Controls,
    window: Window,
    num_episodes: int,
    *,
    seed: int = 0,
    frame_seconds: float = 1 / 30,
    recorder: Recorder | None = None,
    also: OnFrame | None = None,
    sleep: Callable[[float], Any] = time.sleep,
) -> list[Episode]:
    """The episodes that a person finished in one environment."""
    from agents.episodes import picture

    obs = envs.reset(seed)
    episodes: list[Episode] = []
    total, length = 0.0, 0
    seconds = frame_seconds if controls.idle is not None or frame_seconds < _TURN_SECONDS else _TURN_SECONDS
    while len(episodes) < num_episodes:
        began = time.perf_counter()
        frame = picture(envs.envs[0], env_id)
        window(frame)
        if window.closed:
            break
        newest = window.held[-1] if window.held else None
        action = controls.action(frozenset(window.held), newest)
        if action is not None:
            if also is not None:
                also(frame, None)
            chosen = _as_array(action)
            step = envs.step(chosen)
            if recorder is not None:
                recorder.add(obs, chosen, step)
            total, length, obs = total + float(step.reward[0]), length + 1, step.obs
            if step.terminated[0] or step.truncated[0]:
                episodes.append(Episode(total, length))
                total, length = 0.0, 0
        sleep(max(0.0, seconds - (time.perf_counter() - began)))
    return episodes


def _as_array(action: ActionValue) -> np.ndarray[Any, Any]:
    """An action with a leading axis of one environment."""
    if isinstance(action, int):
        return np.array([action])
    whole = all(isinstance(part, int) for part in action)
    return np.array([action], np.int64 if whole else np.float32)
