"""What all agents share: a policy, rounds of collecting and learning, counters, greedy evaluation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from agents.envs.make import ENDLESS, ENDLESS_IN_TRAINING, with_limit
from agents.episodes import fps_of, play, play_episodes
from agents.experience.data import environment_of
from agents.play.export import exportable
from agents.play.screens import Film
from agents.play.video import write_video
from agents.policies.policy import Policy
from agents.types import Obs, Rollout
from lab.data.module import LabDataModule
from lab.data.spec import DataSpec
from lab.engine.loss import Metrics
from lab.export import Exportable
from lab.ranks import collectives
from lab.seeding import derive_seed
from lab.training.answer import Answer
from lab.training.learner import ConfigT, Learner, Monitor, StepMetrics, means

log = logging.getLogger("lab")


class Agent(Learner[ConfigT]):
    """Subclasses set `policy` and give `learn`; an agent whose data are no environments gives `training_step`."""

    counter: ClassVar[Literal["env_steps", "samples"]] = "env_steps"
    monitor = Monitor("eval/return_mean", "max")
    auto_engine: ClassVar[Literal["eager", "traced"]] = "traced"
    eval_episodes: ClassVar[int] = 20
    film_frames: ClassVar[int] = 1_000

    policy: Policy

    def __init__(self, config: ConfigT, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.progress = 0.0
        self.counters["episodes"] = 0
        inputs = spec.inputs.values() if isinstance(spec.inputs, dict) else [spec.inputs]
        if all(len(tensor.shape) < 2 for tensor in inputs):
            self.num_threads = 1  # a second one waits for the first in products as small as these

    def set_progress(self, progress: float) -> None:
        super().set_progress(progress)
        self.progress = progress

    def training_step(self, experience: Any, batch_idx: int = 0) -> StepMetrics:
        """All rounds of one chunk of Experience; returns the means of the updates' metrics, and charts."""
        rows: list[Metrics] = []
        for _ in range(experience.rounds):
            rollout = self.collect(experience)
            self.follow_schedules(-rollout.num_env_steps / 2)
            rows += self.learn(rollout, experience)
        return {**means(rows), **experience.statistics(), **self.rates(), **self.charts()}

    def of_all_ranks(self, own: float) -> float:
        """Whole episodes differ in length from rank to rank."""
        return collectives.total(own)

    def collect(self, experience: Any) -> Rollout:
        """The next rollout; its environment steps and finished episodes are counted."""
        rollout: Rollout = experience.collect(self.policy, self.counters["updates"])
        self.counters["env_steps"] += rollout.num_env_steps
        self.counters["episodes"] += len(rollout.episodes)
        return rollout

    def learn(self, rollout: Rollout, experience: Any) -> list[Metrics]:
        """Learn from a rollout, or from the experience that it was added to; returns the metrics of each update."""
        raise NotImplementedError

    def update(self, batch: Any) -> Metrics:
        """Learn from one minibatch and count the update; returns detached scalars."""
        return self.update_with_extras(batch)[0]

    def update_with_extras(self, batch: Any) -> tuple[Metrics, dict[str, Tensor]]:
        """`update`, with the extras of the loss."""
        metrics, extras = self.updater.step(batch)
        self.counters["updates"] += 1
        return metrics, extras

    def charts(self) -> StepMetrics:
        """What the agent logs of itself after each chunk, named `charts/...`."""
        return {}

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
        limit = ENDLESS_IN_TRAINING if episodes is None else ENDLESS
        finished = play_episodes(
            self.policy,
            env_id,
            episodes or self.eval_episodes,
            seed=derive_seed(data_seed, "evaluation") if seed is None else seed,
            options=env_options,
            limit=limit,
        )
        limited = with_limit(env_id, env_options, limit) != env_options
        if limited and any(episode.length == limit for episode in finished):
            self.warn_once(
                "endless episodes",
                f"episodes of {env_id}, which has no time limit, are cut off after {limit:,} steps where they are "
                f"measured; data.env_options.max_episode_steps sets another limit",
            )
        returns = np.array([episode.episode_return for episode in finished])
        return {
            "eval/return_mean": float(returns.mean()),
            "eval/return_std": float(returns.std()),
            "eval/return_min": float(returns.min()),
            "eval/length_mean": float(np.mean([episode.length for episode in finished])),
            "eval/episodes": float(len(finished)),
        }

    def film(self, data: LabDataModule, folder: Path) -> Path | None:
        """One greedy episode as an mp4 in `folder`, at most `film_frames` long; None where it cannot be drawn."""
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
        except Exception as error:  # whatever an environment raises as it is drawn, the run matters more
            log.warning("no film of %s: %s", env_id, " ".join(str(error).split()) or type(error).__name__)
            return None
        return folder / "episode.mp4"

    @torch.no_grad()
    def answers(self, x: Obs) -> list[Answer]:
        """Of observations (B, ...), each taken as the first of an episode: the greedy action, and the scores of all."""
        num = len(next(iter(x.values())) if isinstance(x, dict) else x)
        state = self.policy.initial_state(num)
        actions = self.policy.env_action(self.policy.act(x, state).action).reshape(num, -1).tolist()
        kind, scores, value = self.policy.preferences(x, state)
        name = {"probability": "probabilities", "Q-value": "q_values", "action": "actions"}[kind]
        return [
            Answer(
                " ".join(f"{part:.5g}" for part in action),
                {
                    name: {str(i): score for i, score in enumerate(row)},
                    **({} if value is None else {"value": float(value[at])}),
                },
            )
            for at, (action, row) in enumerate(zip(actions, scores.tolist(), strict=True))
        ]

    def exportable(self, data: LabDataModule) -> Exportable:
        env_id, options, _ = environment_of(data)
        return exportable(self.policy, self.data_spec, env_id, options)
