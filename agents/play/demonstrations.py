"""Episodes that a person or an agent played, as files and as data to learn from.

    FOLDER/dataset.json        environment, its options, and a line an episode: file, return, length, who played
    FOLDER/episode-000000.npz  obs (T + 1, *obs), or obs.KEY of each part; action (T,) or (T, A), as the environment
                               takes it, discrete ones counted from 0; reward (T,); terminated (), truncated ()

Plain arrays and plain values: reading a stranger's data set runs no code. T steps, S steps of all episodes, B batch, L
sequence length.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from agents.envs.make import InProcessEnvs, Step, make_env
from agents.envs.spaces import ObsArray, array_dtype
from agents.experience.data import EnvironmentData
from agents.experience.items import observation_items
from agents.types import Obs, map_obs
from lab.data import npz
from lab.data.items import Item
from lab.data.module import LabDataModule
from lab.data.resident import ShuffledOrder
from lab.data.spec import Continuous, DataSpec, Discrete, MultiDiscrete, TensorSpec
from lab.errors import UserError
from lab.experiment import Shared
from lab.foreign import parse_json, read_regular
from lab.runs.files import disk_failure, write_atomic

Array = np.ndarray[Any, Any]

FORMAT = 1
_INDEX = "dataset.json"


class EpisodeRecorder:
    """Writes episodes of one environment into a folder, each when it has ended; what is there already stays.

    Raises UserError when the folder holds something else.
    """

    def __init__(self, folder: Path, env_id: str, options: dict[str, Any] | None, spec: DataSpec, source: str) -> None:
        self.folder, self.spec, self.source = folder, spec, source
        self.index: dict[str, Any] = {"format": FORMAT, "env": env_id, "env_options": dict(options or {})}
        self.index["episodes"] = []
        if (folder / _INDEX).is_file():
            self.index = read_index(folder)
            if self.index["env"] != env_id:
                raise UserError(f"--record {str(folder)!r} holds episodes of {self.index['env']!r}, not of {env_id!r}.")
            before, now = self.index.get("env_options") or {}, json.loads(json.dumps(dict(options or {})))
            if before != now:
                raise UserError(
                    f"--record {str(folder)!r} holds episodes of {env_id!r} with {before}, not with {now}; "
                    f"give another folder."
                )
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"--record {str(folder)!r} exists and is no data set; give another folder.")
        self._steps: list[tuple[Any, Array, float]] = []

    def add(self, obs: ObsArray, action: Array, step: Step) -> None:
        """One step of one environment: arrays with a leading axis of 1."""
        self._steps.append((_single(obs), action[0].copy(), float(step.reward[0])))
        if step.terminated[0] or step.truncated[0]:
            self._write(_single(step.next_obs), bool(step.terminated[0]), bool(step.truncated[0]))
            self._steps = []

    def _write(self, last: Any, terminated: bool, truncated: bool) -> None:
        observations = [obs for obs, _, _ in self._steps] + [last]
        if isinstance(last, dict):
            arrays = {f"obs.{key}": np.stack([obs[key] for obs in observations]) for key in last}
        else:
            arrays = {"obs": np.stack(observations)}
        rewards = np.array([reward for _, _, reward in self._steps], np.float32)
        arrays |= {"action": np.stack([action for _, action, _ in self._steps]), "reward": rewards}
        arrays |= {"terminated": np.array(terminated), "truncated": np.array(truncated)}
        name = f"episode-{len(self.index['episodes']):06d}.npz"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f".{name}.{os.getpid()}"
            with temporary.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
            temporary.replace(self.folder / name)
        except OSError as error:
            raise disk_failure(self.folder / name, error) from error
        entry = {"file": name, "return": float(rewards.sum()), "length": len(rewards), "source": self.source}
        self.index["episodes"].append(entry)
        write_atomic(self.folder / _INDEX, json.dumps(self.index, indent=2) + "\n")


def read_index(folder: Path) -> dict[str, Any]:
    """The content of `dataset.json`. Raises UserError when there is none, or it is damaged."""
    path = folder / _INDEX
    try:
        index = parse_json(read_regular(path))
    except (OSError, ValueError):
        raise UserError(f"{str(folder)!r} is no data set of episodes: {_INDEX} is absent or damaged.") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT or not isinstance(index.get("episodes"), list):
        raise UserError(f"{str(path)!r} is no index of episodes in format {FORMAT}.")
    return index


class Demonstrations(NamedTuple):
    """All steps of some episodes, one after the other."""

    obs: Obs  # (S, *obs)
    action: Tensor  # (S,) or (S, A)
    start: Tensor  # (S,) bool: the first of an episode
    episode: Tensor  # (S,) which one

    def rows(self, index: Any) -> Demonstrations:
        """Some of them, in the shape of the index."""
        return Demonstrations(
            map_obs(self.obs, lambda t: t[index]), self.action[index], self.start[index], self.episode[index]
        )


def read_episodes(folder: Path, spec: DataSpec) -> Demonstrations:
    """All episodes of a data set. Raises UserError for files that are absent, damaged, or of other spaces."""
    index = read_index(folder)
    names = [str(episode.get("file")) if isinstance(episode, dict) else "" for episode in index["episodes"]]
    if not names:
        raise UserError(f"{str(folder)!r} holds no episode yet.")
    parts = [_read_episode(folder / Path(name).name, spec) for name in names]
    keys = parts[0][0].keys()
    obs: Any = {key: torch.from_numpy(np.concatenate([observations[key] for observations, _ in parts])) for key in keys}
    lengths = torch.tensor([len(action) for _, action in parts])
    episode = torch.repeat_interleave(torch.arange(len(parts)), lengths)
    start = torch.ones(len(episode), dtype=torch.bool)
    start[1:] = episode[1:] != episode[:-1]
    action = torch.from_numpy(np.concatenate([action for _, action in parts]))
    return Demonstrations(obs if isinstance(spec.inputs, dict) else obs["obs"], action, start, episode)


def _read_episode(path: Path, spec: DataSpec) -> tuple[dict[str, Array], Array]:
    """Observations that were acted on, by key, and actions."""
    arrays = npz.read_arrays(path)
    inputs = spec.inputs if isinstance(spec.inputs, dict) else {"obs": spec.inputs}
    names = {key: (f"obs.{key}" if isinstance(spec.inputs, dict) else "obs") for key in inputs}
    action = arrays.get("action")
    if action is None or not len(action) or any(name not in arrays for name in names.values()):
        raise UserError(f"{str(path)!r} has no action or no observations.")
    observations = {key: _observations(arrays[name], inputs[key], len(action), path) for key, name in names.items()}
    return observations, _actions(action, spec, path)


def _observations(array: Array, spec: TensorSpec, length: int, path: Path) -> Array:
    if array.shape != (length + 1, *spec.shape):
        shape = (length + 1, *spec.shape)
        raise UserError(f"{str(path)!r}: observations {array.shape} do not fit the environment, which needs {shape}.")
    return array[:-1].astype(array_dtype(spec))


def _actions(action: Array, spec: DataSpec, path: Path) -> Array:
    actions = spec.actions
    kind: Any = np.int64
    if isinstance(actions, Continuous):
        fits, kind = action.shape[1:] == (actions.num,) and action.dtype.kind in "fiu", np.float32
    else:
        assert isinstance(actions, Discrete | MultiDiscrete)
        nums = (actions.num,) if isinstance(actions, Discrete) else actions.nums
        shape = () if isinstance(actions, Discrete) else (len(nums),)
        is_integer = action.dtype.kind in "iu" and action.shape[1:] == shape
        fits = is_integer and bool((action >= 0).all() and (action < np.array(nums)).all())
    if not fits:
        raise UserError(f"{str(path)!r}: actions {action.dtype} {action.shape} do not fit {actions}.")
    return action.astype(kind)


class DemonstrationData(EnvironmentData):
    """Episodes that `lab play --record` wrote; the environment is for evaluation."""

    kind: Literal["demonstrations"] = "demonstrations"
    path: str | None = None
    """the folder of a data set"""
    batch_size: Annotated[PositiveInt, Shared("equal")] = 64
    batches_per_step: PositiveInt = 20
    """minibatches in one training step"""
    validation: float = Field(default=0.2, gt=0, lt=1)
    """share of the steps that is held out: the last episodes, or the end of a single one"""

    def build(self, seed: int) -> DemonstrationModule:
        """Raises UserError for a data set that is absent, damaged, or of another environment."""
        if self.path is None:
            raise UserError("data.path: say where the episodes are, a folder that lab play --record FOLDER wrote.")
        return DemonstrationModule(self, Path(self.path).expanduser(), seed)


class DemonstrationModule(LabDataModule):
    """All steps resident; itself the chunk that `training_step` gets."""

    def __init__(self, config: DemonstrationData, folder: Path, seed: int) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        index = read_index(folder)
        for field, value in (("env", config.env), ("env_options", config.env_options)):
            if index.get(field) != value:
                raise UserError(
                    f"data.path={str(folder)!r} holds episodes of {index.get(field)!r}, not of data.{field}={value!r}."
                )
        envs = InProcessEnvs([lambda: make_env(config.env, config.env_options)])
        self.spec = envs.spec
        envs.close()
        steps = read_episodes(folder, self.spec)
        cut = _num_training_steps(steps, config.validation)
        self.train, self.val = steps.rows(slice(0, cut)), steps.rows(slice(cut, None))
        self.val.start[:1] = True
        self.order = ShuffledOrder(cut, config.batch_size, seed, self.device)

    def to(self, device: torch.device) -> None:
        super().to(device)
        self.train, self.val = (
            Demonstrations(map_obs(part.obs, lambda t: t.to(device)), *(t.to(device) for t in part[1:]))
            for part in (self.train, self.val)
        )
        self.order.device = device

    def items(self, sources: Sequence[str]) -> Iterator[Item]:
        """Observations, as JSON or .npy."""
        return observation_items(sources, self.spec.inputs)

    def next_chunk(self) -> DemonstrationModule:
        return self

    def minibatches(self, length: int | None = None) -> Iterator[Demonstrations]:
        """Shuffled steps (B, ...), or stretches of successive ones (L, B, ...) that may run over episodes' ends."""
        num = len(self.train.action)
        for _ in range(self.config.batches_per_step):
            index = self.order.next()
            if length is not None:
                size = min(length, num)
                index = index.clamp(max=num - size) + torch.arange(size, device=index.device)[:, None]
            yield self.train.rows(index)

    def fixed_tensors(self) -> Iterator[Tensor]:
        parts = [part for steps in (self.train, self.val) for part in steps]
        return (t for part in parts for t in (part.values() if isinstance(part, dict) else [part]))

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.order.drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.order.drawn = state_dict["drawn"]


def _num_training_steps(steps: Demonstrations, validation: float) -> int:
    """Where validation begins: at the start of an episode, unless there is but one."""
    num = len(steps.action)
    if num < 2:
        raise UserError("the data set holds a single step; play more.")
    share = min(max(1, round(num * (1 - validation))), num - 1)
    starts = steps.start.nonzero().flatten()[1:]
    return int(starts[(starts - share).abs().argmin()]) if len(starts) else share


def _single(obs: ObsArray) -> Any:
    """The observation of one environment, without the leading axis."""
    return {key: value[0].copy() for key, value in obs.items()} if isinstance(obs, dict) else obs[0].copy()
