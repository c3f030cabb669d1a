"""lab play: play a trained agent in its environment.

The environment may be another of the same spaces; it is shown in a window, a film or the terminal. With `--human` a
person plays instead. `--record` keeps the episodes as a data set.
"""

from __future__ import annotations

import argparse
import json
from statistics import mean, pstdev
from typing import TYPE_CHECKING, Any

from lab.cli import add_checkpoint_argument, add_override_arguments, path_argument
from lab.errors import UserError, shortened

if TYPE_CHECKING:
    from agents.algorithms.agent import Agent
    from agents.episodes import OnFrame
    from agents.types import Episode

EXAMPLE = "lab play runs/dqn-cartpole-s3-... --video pole.gif"
ORDER = 40

RENDERERS = ("auto", "human", "ansi", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_override_arguments(parser, "a run directory", nargs="?")
    parser.add_argument("--human", metavar="ENV", help="play an environment yourself, with the keyboard")
    parser.add_argument("--keys", metavar="KEYS", help="with --human: your own keys, e.g. 'left=0 right=1'")
    parser.add_argument("--env", help="another environment with the same spaces (default: the one it trained in)")
    parser.add_argument("--episodes", type=int, default=5, help="how many to play (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the environment and of sampled actions (default: 0)")
    add_checkpoint_argument(parser)
    parser.add_argument(
        "--render",
        choices=RENDERERS,
        default="auto",
        help="a window (human), coloured blocks in the terminal (ansi), or nothing; auto: a window if it can",
    )
    parser.add_argument("--video", type=path_argument, metavar="FILE", help="also write a .gif or .mp4 of all episodes")
    parser.add_argument(
        "--explain",
        action="store_true",
        help="show probabilities or values of the actions beside the frame, for image policies also a saliency map",
    )
    parser.add_argument(
        "--record", type=path_argument, metavar="FOLDER", help="keep the episodes as a data set (bc/... recipes)"
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--greedy", action="store_true", help="the best action, or the mean (default)")
    choice.add_argument("--sample", action="store_true", help="actions drawn as in training")
    parser.add_argument("--slow", action="store_true", help="a quarter of the environment's own speed")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from agents.play.video import check_video_path
    from lab.training.restore import MOST_EPISODES

    if not 1 <= arguments.episodes <= MOST_EPISODES:
        episodes = shortened(arguments.episodes)
        raise UserError(f"--episodes {episodes} is not a number of episodes; give 1 to {MOST_EPISODES:,}.")
    if arguments.video is not None:
        check_video_path(arguments.video)
    return _human(arguments) if arguments.human is not None else _agent(arguments)


def _agent(arguments: argparse.Namespace) -> int:
    """A trained agent plays."""
    from agents.algorithms.agent import Agent
    from agents.experience.data import EnvironmentData
    from lab.runs.directory import Run
    from lab.training.restore import restore

    if arguments.target is None:
        raise UserError("say which run is to play (lab list --runs), or --human ENV to play yourself.")
    if arguments.keys is not None:
        raise UserError("--keys belongs to --human ENV.")
    render = _renderer(arguments.render)
    experiment, data, module, _ = restore(Run.open(arguments.target), arguments.checkpoint, arguments.overrides)
    data.close()
    if not isinstance(module, Agent) or not isinstance(experiment.data, EnvironmentData):
        raise UserError(f"run {arguments.target!r} is no agent ({experiment.name}); lab sample or lab evaluate it.")
    env_id = arguments.env or experiment.data.env
    options = experiment.data.env_options if arguments.env in (None, experiment.data.env) else {}
    _report(_show(module, env_id, options, render, arguments), env_id, arguments)
    return 0


def _show(
    agent: Agent[Any], env_id: str, options: dict[str, Any], render: str, arguments: argparse.Namespace
) -> list[Episode]:
    """Play on the screens, into the film and the data set that were asked for."""
    from agents.envs.display import use_display
    from agents.episodes import fps_of, play
    from agents.play.demonstrations import EpisodeRecorder
    from agents.play.explain import explainer_of
    from agents.play.screens import Film, GameWindow, Terminal, to_all
    from agents.play.video import write_video

    if arguments.explain and render == "none" and arguments.video is None:
        raise UserError("--explain has nowhere to be shown here: add --render ansi or --video play.gif.")
    own_window = render == "human" and arguments.explain
    use_display(render == "human")
    film = Film() if arguments.video is not None else None
    window = GameWindow(f"{arguments.target}: {env_id}") if own_window else None
    terminal = Terminal() if render == "ansi" else None
    screens: list[OnFrame] = [screen for screen in (film, window, terminal) if screen is not None]
    recorder = None
    if arguments.record is not None:
        recorder = EpisodeRecorder(arguments.record, env_id, options, agent.data_spec, str(arguments.target))
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
            explainer=explainer_of(agent.policy, env_id) if arguments.explain else None,
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


def _human(arguments: argparse.Namespace) -> int:
    """A person plays. Raises UserError without a display."""
    from agents.envs.display import has_display, no_display, use_display
    from agents.envs.make import InProcessEnvs, make_env
    from agents.episodes import fps_of
    from agents.play.demonstrations import EpisodeRecorder
    from agents.play.human import play_by_hand
    from agents.play.key_bindings import action_names, controls_of
    from agents.play.screens import Film, GameWindow
    from agents.play.video import write_video

    if arguments.target is not None or arguments.explain or arguments.sample:
        raise UserError("--human ENV takes no run, and no --explain or --sample: it is you who plays.")
    if not has_display():
        raise no_display("--human needs a window", "a machine with a screen, or lab play RUN --record FOLDER")
    env_id = arguments.human
    use_display(True)
    envs = InProcessEnvs([lambda: make_env(env_id, None, render_mode="rgb_array")])
    film = Film() if arguments.video is not None else None
    window = None
    try:
        actions = envs.spec.actions
        assert actions is not None
        controls = controls_of(env_id, envs.envs[0], actions, arguments.keys)
        names = action_names(env_id, envs.envs[0], actions)
        recorder = None
        if arguments.record is not None:
            recorder = EpisodeRecorder(arguments.record, env_id, {}, envs.spec, "human")
        if not arguments.json:
            print("\n".join([*controls.lines(names), "      escape  end"]), flush=True)
        window = GameWindow(f"{env_id}: {arguments.episodes} episodes, Escape ends")
        episodes = play_by_hand(
            envs,
            env_id,
            controls,
            window,
            arguments.episodes,
            seed=arguments.seed,
            frame_seconds=(4.0 if arguments.slow else 1.0) / fps_of(env_id, None),
            recorder=recorder,
            also=film,
        )
    finally:
        envs.close()
        if window is not None:
            window.close()
    if film is not None and film.num_frames:
        write_video(arguments.video, film.frames, fps_of(env_id, None))
    _report(episodes, env_id, arguments)
    return 0


def _renderer(choice: str) -> str:
    """The renderer for `--render`. Raises UserError for a window where there is no display."""
    from agents.envs.display import has_display, no_display

    if choice == "human" and not has_display():
        raise no_display("--render human", "--render ansi, --video play.gif")
    if choice == "auto":
        return "human" if has_display() else "none"
    return choice


def _report(episodes: list[Episode], env_id: str, arguments: argparse.Namespace) -> None:
    """Print returns and lengths, as a table or as JSON, and what was written."""
    returns = [episode.episode_return for episode in episodes]
    video = arguments.video if arguments.video is not None and arguments.video.is_file() else None
    record = arguments.record if arguments.record is not None and arguments.record.is_dir() else None
    if arguments.json:
        rows = [{"return": episode.episode_return, "length": episode.length} for episode in episodes]
        summary = {"return_mean": mean(returns), "return_std": pstdev(returns)} if returns else {}
        files = {"video": str(video) if video else None, "record": str(record) if record else None}
        print(json.dumps({"env": env_id, "episodes": rows, **summary, **files}, indent=2))
        return
    if episodes:
        print(f"{'episode':>7}  {'return':>10}  {'length':>6}")
        for i, episode in enumerate(episodes, 1):
            print(f"{i:>7}  {episode.episode_return:>10.4g}  {episode.length:>6}")
        print(f"return {mean(returns):.4g} +- {pstdev(returns):.3g} over {len(episodes)} episodes of {env_id}")
    else:
        print("no episode was finished.")
    if video is not None:
        print(f"film: {video}")
    if record is not None:
        print(f"data set: {record} (lab train bc/... data.path={record})")
