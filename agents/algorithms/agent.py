"""What all agents share: a policy, counters in environment steps, greedy evaluation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np

from agents.episodes import play_episodes
from agents.experience.data import environment_of
from agents.policies.policy import Policy
from lab.data.module import LabDataModule
from lab.data.spec import DataSpec
from lab.errors import Failure, UserError
from lab.experiment import ModuleConfig
from lab.export import Exportable
from lab.seeding import derive_seed
from lab.training.learner import Learner, Monitor

log = logging.getLogger("lab")


class Agent(Learner):
    """Subclasses set `policy` and give `training_step`."""

    counter: ClassVar[Literal["env_steps", "samples"]] = "env_steps"
    monitor = Monitor("eval/return_mean", "max")
    auto_engine: ClassVar[Literal["eager", "traced"]] = "traced"
    eval_episodes: ClassVar[int] = 20
    film_frames: ClassVar[int] = 1_000

    policy: Policy

    def __init__(self, config: ModuleConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.counters["episodes"] = 0
        inputs = spec.inputs.values() if isinstance(spec.inputs, dict) else [spec.inputs]
        if all(len(tensor.shape) < 2 for tensor in inputs):
            self.num_threads = 1  # a second one waits for the first in products as small as these

    def evaluate(
        self,
        data: LabDataModule,
        split: Literal["val", "test"] = "val",
        *,
        episodes: int | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> dict[str, float]:
        """Returns and lengths over greedy episodes in environments of their own, seeded alike every time."""
        env_id, env_options, data_seed = environment_of(data)
        played = play_episodes(
            self.policy,
            env_id,
            episodes or self.eval_episodes,
            seed=derive_seed(data_seed, "evaluation") if seed is None else seed,
            options=env_options,
        )
        returns = np.array([episode.episode_return for episode in played])
        return {
            "eval/return_mean": float(returns.mean()),
            "eval/return_std": float(returns.std()),
            "eval/return_min": float(returns.min()),
            "eval/length_mean": float(np.mean([episode.length for episode in played])),
            "eval/episodes": float(len(played)),
        }

    def film(self, data: LabDataModule, folder: Path) -> Path | None:
        """One greedy episode as an mp4 in `folder`, at most `film_frames` long; None where it cannot be drawn."""
        from agents.episodes import fps_of, play
        from agents.play.screens import Film
        from agents.play.video import write_video

        env_id, options, seed = environment_of(data)
        film = Film()
        try:
            play(
                self.policy,
                env_id,
                1,
                seed=derive_seed(seed, "film"),
                options=options,
                on_frame=film,
                max_steps=self.film_frames,
            )
            folder.mkdir(parents=True, exist_ok=True)
            write_video(folder / "episode.mp4", film.frames, fps_of(env_id, options))
        except (UserError, Failure, ImportError, gym.error.Error) as error:
            log.warning("no film of %s: %s", env_id, error)
            return None
        return folder / "episode.mp4"

    def exportable(self, data: LabDataModule) -> Exportable:
        from agents.play.export import exportable

        env_id, options, _ = environment_of(data)
        return exportable(self.policy, self.data_spec, env_id, options)
