"""Replay against a slow list of steps: windows, episode ends, resets, priorities, frames, segments on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agents.replay.buffer import ReplayBuffer, ReplayConfig
from agents.replay.files import RingFiles
from agents.replay.priorities import PriorityConfig
from agents.returns import n_step_returns
from agents.types import Rollout
from lab.data.spec import DataSpec, Discrete, TensorSpec
from lab.errors import UserError

CPU = torch.device("cpu")
VECTOR = DataSpec(TensorSpec((2,)), actions=Discrete(5))
FRAMES = DataSpec(TensorSpec((3, 4, 4), torch.uint8, 0, 255), actions=Discrete(5))
GAMMA = 0.9


class World:
    """N environments whose episodes end and are cut at random; observations are (environment, step).

    With `resets`, each end is followed by a row that only resets. Keeps all steps for the slow reference.
    """

    def __init__(self, num_envs: int, seed: int, *, resets: bool = False, frames: bool = False) -> None:
        self.num_envs, self.resets, self.frames = num_envs, resets, frames
        self.rng = np.random.default_rng(seed)
        self.clock = np.zeros(num_envs, int)
        self.resetting, self.fresh = np.zeros(num_envs, bool), np.ones(num_envs, bool)
        self.stacks = [self._new_stack() for _ in range(num_envs)]
        self.rows: list[dict[str, Any]] = []

    def rollout(self, num_steps: int) -> Rollout:
        rows = [self._row() for _ in range(num_steps)]
        self.rows += rows
        stacked = {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}
        return Rollout(**stacked, first_state=None, extras={}, episodes=[], policy_version=0)

    def _row(self) -> dict[str, Any]:
        n, rng = self.num_envs, self.rng
        valid, start, obs = ~self.resetting, self.fresh.copy(), self._obs()
        terminated = valid & (rng.random(n) < 0.15)
        truncated = valid & ~terminated & (rng.random(n) < 0.15)
        done = terminated | truncated
        self.clock += 1
        for i in range(n):
            self.stacks[i] = np.concatenate([self.stacks[i][1:], self._frame()[None]])
        next_obs = self._obs()
        self.fresh = ~valid if self.resets else done
        self.resetting = done if self.resets else np.zeros(n, bool)
        for i in np.flatnonzero(self.fresh):
            self.clock[i] += 100
            self.stacks[i] = self._new_stack()
        if self.resets:  # a row that only resets leads from the last observation to the first
            next_obs = np.where(valid.reshape(-1, *[1] * (next_obs.ndim - 1)), next_obs, self._obs())
        return {
            "obs": obs,
            "action": rng.integers(5, size=n),
            "reward": np.where(valid, rng.normal(size=n), 0.0).astype(np.float32),
            "terminated": terminated,
            "truncated": truncated,
            "next_obs": next_obs,
            "start": start,
            "valid": valid,
        }

    def _obs(self) -> np.ndarray[Any, Any]:
        if self.frames:
            return np.stack(self.stacks)
        return np.stack([np.arange(self.num_envs), self.clock], 1).astype(np.float32)

    def _frame(self) -> np.ndarray[Any, Any]:
        return self.rng.integers(256, size=(4, 4), dtype=np.uint8)

    def _new_stack(self) -> np.ndarray[Any, Any]:
        return np.concatenate([np.zeros((2, 4, 4), np.uint8), self._frame()[None]])


class Expected(NamedTuple):
    action: int
    reward: float
    discount: float
    next_obs: bytes


def slow_transitions(world: World, n: int, capacity_rows: int) -> dict[bytes, Expected]:
    """What may be drawn, by its observation: a loop over each row and its window."""
    rows, found = world.rows, {}
    for t in range(max(0, len(rows) - capacity_rows), len(rows) - n + 1):
        for i in range(world.num_envs):
            if not rows[t]["valid"][i]:
                continue
            reward, k = 0.0, 0
            while True:
                row = rows[t + k]
                reward += GAMMA**k * float(row["reward"][i])
                k += 1
                if row["terminated"][i] or row["truncated"][i] or k == n:
                    break
            discount = 0.0 if row["terminated"][i] else GAMMA**k
            found[rows[t]["obs"][i].tobytes()] = Expected(
                int(rows[t]["action"][i]), reward, discount, row["next_obs"][i].tobytes()
            )
    return found


def check_draws(buffer: ReplayBuffer, expected: dict[bytes, Expected], draws: int) -> None:
    """Every draw is one of the expected transitions, and every one of them is drawn."""
    batch = buffer.sample(draws, 2)
    seen = set()
    for k in range(2):
        for b in range(draws):
            obs = batch.obs[k, b].numpy().tobytes()  # type: ignore[index]
            want = expected[obs]
            seen.add(obs)
            assert int(batch.action[k, b]) == want.action
            assert abs(float(batch.reward[k, b]) - want.reward) < 1e-5  # pytest.approx takes most of the time
            assert abs(float(batch.discount[k, b]) - want.discount) < 1e-6
            assert batch.next_obs[k, b].numpy().tobytes() == want.next_obs  # type: ignore[index]
    assert seen == set(expected)


@pytest.mark.slow
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("n", [1, 3, 5])
def test_draws_are_the_slow_loops_transitions(n: int, prioritized: bool, resets: bool) -> None:
    world = World(3, seed=n, resets=resets)
    config = ReplayConfig(capacity=60, n_step=n, priority=PriorityConfig() if prioritized else None)
    buffer = ReplayBuffer(config, GAMMA, VECTOR, 3, seed=0, device=CPU)
    for num_steps in (7, 5, 6, 1, 9, 4, 8, 2, 13):  # the ring of 20 rows goes round several times
        buffer.extend(world.rollout(num_steps))
        check_draws(buffer, slow_transitions(world, n, 20), 1500)


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_frames_kept_once_give_the_same_stacks(n: int, resets: bool) -> None:
    world = World(2, seed=n, resets=resets, frames=True)
    buffer = ReplayBuffer(ReplayConfig(capacity=60, n_step=n, frame_stack=True), GAMMA, FRAMES, 2, 0, CPU)
    for num_steps in (5, 9, 12, 3, 8, 15):
        buffer.extend(world.rollout(num_steps))
        kept = len(buffer) // 2 + n - 1  # frequent starts take frames from the oldest rows
        assert kept >= min(len(world.rows), 15)
        check_draws(buffer, slow_transitions(world, n, kept), 1500)


def test_frames_take_the_room_of_one_frame_a_step() -> None:
    buffer = ReplayBuffer(ReplayConfig(capacity=100_000, frame_stack=True), GAMMA, FRAMES, 8, 0, CPU)
    held = sum(ring.data.numel() * ring.data.element_size() for ring in buffer.rings.values())
    frame_and_numbers = 16 + 80  # 4x4 pixels; 5 frame numbers, action, rewards, flags
    assert held < 100_000 * frame_and_numbers


def test_observations_that_are_no_stacks_are_refused() -> None:
    world = World(2, seed=0, frames=True)
    world.fresh[:] = False
    rollout = world.rollout(1)
    shuffled = rollout._replace(obs=rollout.obs.flip(2))  # type: ignore[union-attr]
    buffer = ReplayBuffer(ReplayConfig(capacity=60, frame_stack=True), GAMMA, FRAMES, 2, 0, CPU)
    with pytest.raises(UserError, match="frame_stack"):
        buffer.extend(shuffled)
    with pytest.raises(UserError, match="frame_stack"):
        ReplayBuffer(ReplayConfig(frame_stack=True), GAMMA, VECTOR, 2, 0, CPU)


def test_dict_observations() -> None:
    vectors, frames = World(2, seed=3), World(2, seed=3, frames=True)
    spec = DataSpec({"place": VECTOR.inputs, "view": FRAMES.inputs}, actions=Discrete(5))  # type: ignore[dict-item]
    buffer = ReplayBuffer(ReplayConfig(capacity=40, frame_stack=True), GAMMA, spec, 2, 0, CPU)
    for _ in range(3):
        a, b = vectors.rollout(6), frames.rollout(6)
        both = a._replace(
            obs={"place": a.obs, "view": b.obs},  # type: ignore[dict-item]
            next_obs={"place": a.next_obs, "view": b.next_obs},  # type: ignore[dict-item]
            start=torch.ones_like(a.start),
        )
        buffer.extend(both)
    batch = buffer.sample(50, 1)
    assert isinstance(batch.obs, dict)
    assert isinstance(batch.next_obs, dict)
    known = {
        row["obs"][i].tobytes(): (other["obs"][i].tobytes(), other["next_obs"][i].tobytes())
        for row, other in zip(vectors.rows, frames.rows, strict=True)
        for i in range(2)
    }
    for b in range(50):
        view, next_view = known[batch.obs["place"][0, b].numpy().tobytes()]
        assert batch.obs["view"][0, b].numpy().tobytes() == view
        assert batch.next_obs["view"][0, b].numpy().tobytes() == next_view


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_n_step_returns_agree_with_a_slow_loop(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reward = torch.from_numpy(rng.normal(size=(12, 2)).astype(np.float32))
    terminated = torch.from_numpy(rng.random((12, 2)) < 0.2)
    truncated = torch.from_numpy(rng.random((12, 2)) < 0.2) & ~terminated
    result = n_step_returns(reward, terminated, truncated, GAMMA, n)
    assert result.returns.shape == (12 - n + 1, 2)
    for t in range(12 - n + 1):
        for i in range(2):
            total, k = 0.0, 0
            while True:
                total += GAMMA**k * float(reward[t + k, i])
                done = bool(terminated[t + k, i] | truncated[t + k, i])
                k += 1
                if done or k == n:
                    break
            assert float(result.returns[t, i]) == pytest.approx(total, abs=1e-5)
            assert int(result.steps[t, i]) == k - 1
            bootstrap = 0.0 if terminated[t + k - 1, i] else GAMMA**k
            assert float(result.discount[t, i]) == pytest.approx(bootstrap, abs=1e-6)


def chi_square(counts: np.ndarray[Any, Any], probabilities: np.ndarray[Any, Any]) -> float:
    expected = counts.sum() * probabilities
    return float(((counts - expected) ** 2 / expected).sum())


def test_priorities_set_the_distribution_of_draws_and_weights() -> None:
    config = ReplayConfig(capacity=64, priority=PriorityConfig(alpha=0.7))
    buffer = ReplayBuffer(config, GAMMA, VECTOR, 1, 0, CPU)
    buffer.extend(World(1, seed=1).rollout(50))
    errors = torch.rand(50) * 3
    buffer.update_priorities(torch.arange(50), errors)
    expected = ((errors.double() + 1e-6) ** 0.7).numpy()
    expected /= expected.sum()
    batch = buffer.sample(8, 5000, beta=0.5)
    counts = np.bincount(batch.indices.flatten().numpy(), minlength=50)
    assert chi_square(counts, expected) < 85.4  # the 0.1 % point of chi-square with 49 degrees of freedom
    weight = torch.from_numpy((50 * expected) ** -0.5).float()[batch.indices]
    torch.testing.assert_close(batch.weight, weight / weight.max(1, keepdim=True).values, rtol=1e-4, atol=1e-5)


def test_uniform_draws_are_uniform() -> None:
    buffer = ReplayBuffer(ReplayConfig(capacity=64), GAMMA, VECTOR, 2, 0, CPU)
    buffer.extend(World(2, seed=1).rollout(30))
    counts = np.bincount(buffer.sample(100, 200).indices.flatten().numpy(), minlength=60)
    assert chi_square(counts, np.full(60, 1 / 60)) < 98.3  # 0.1 % point, 59 degrees of freedom


def test_a_new_transition_has_the_highest_priority_so_far() -> None:
    config = ReplayConfig(capacity=64, priority=PriorityConfig(alpha=1.0))
    buffer = ReplayBuffer(config, GAMMA, VECTOR, 1, 0, CPU)
    world = World(1, seed=1)
    buffer.extend(world.rollout(3))
    buffer.update_priorities(torch.arange(3), torch.tensor([0.5, 7.0, 0.1]))
    buffer.extend(world.rollout(1))
    assert buffer.priorities is not None
    np.testing.assert_allclose(buffer.priorities.tree.leaves[:4], [0.5, 7.0, 0.1, 7.0], rtol=1e-4)


def test_sequences_are_successive_rows_of_one_environment() -> None:
    world = World(3, seed=2, resets=True)
    buffer = ReplayBuffer(ReplayConfig(capacity=30), GAMMA, VECTOR, 3, 0, CPU)
    for _ in range(4):
        buffer.extend(world.rollout(7))
    sequences = buffer.sample_sequences(200, 4)
    recent = world.rows[-10:]
    firsts = {recent[t]["obs"][i].tobytes(): (t, i) for t in range(7) for i in range(3)}
    seen = set()
    for b in range(200):
        assert isinstance(sequences.obs, Tensor)
        t, i = firsts[sequences.obs[0, b].numpy().tobytes()]
        seen.add((t, i))
        for k in range(4):
            for name in ("obs", "next_obs", "action", "reward", "terminated", "truncated", "start", "valid"):
                assert np.array_equal(getattr(sequences, name)[k, b].numpy(), recent[t + k][name][i])
    assert len(seen) == len(firsts)


def test_a_rollout_longer_than_the_buffer_is_refused() -> None:
    buffer = ReplayBuffer(ReplayConfig(capacity=10, n_step=3), GAMMA, VECTOR, 2, 0, CPU)
    with pytest.raises(UserError, match="capacity"):
        buffer.extend(World(2, seed=0).rollout(4))


@pytest.mark.parametrize("frames", [False, True])
def test_segments_restore_the_buffer_exactly(tmp_path: Path, frames: bool) -> None:
    config = ReplayConfig(capacity=60, n_step=3, priority=PriorityConfig(), frame_stack=frames)
    spec = FRAMES if frames else VECTOR

    def make() -> ReplayBuffer:
        return ReplayBuffer(config, GAMMA, spec, 3, 0, CPU)

    world, buffer = World(3, seed=5, frames=frames), make()
    files = RingFiles(tmp_path / "replay", buffer.rings)
    written: dict[str, float] = {}
    for step in range(12):
        buffer.extend(world.rollout(4))
        batch = buffer.sample(8, 1)
        buffer.update_priorities(batch.indices[0], torch.rand(8))
        manifest, state = files.save(), buffer.state_dict()
        files.remove_unneeded()
        for path in (tmp_path / "replay").iterdir():  # segments never change
            assert written.setdefault(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
        if step not in (0, 3, 11):
            continue
        restored = make()
        RingFiles(tmp_path / "replay", restored.rings).load(manifest)
        restored.load_state_dict(state)
        for _ in range(3):
            for mine, theirs in zip(buffer.sample(16, 2), restored.sample(16, 2), strict=True):
                assert torch.equal(mine, theirs)  # type: ignore[arg-type]
        buffer.load_state_dict(state)
    assert len(list((tmp_path / "replay").iterdir())) <= 7  # 20 rows in segments of 4, and what straddles


def test_a_missing_or_damaged_segment_is_a_sentence(tmp_path: Path) -> None:
    buffer = ReplayBuffer(ReplayConfig(capacity=60), GAMMA, VECTOR, 3, 0, CPU)
    buffer.extend(World(3, seed=5).rollout(4))
    files = RingFiles(tmp_path, buffer.rings)
    manifest = files.save()
    (segment,) = tmp_path.iterdir()
    segment.write_bytes(segment.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        files.load(manifest)
    segment.unlink()
    with pytest.raises(UserError, match="missing"):
        files.load(manifest)


@pytest.mark.parametrize("n_step", [1, 2, 3, 5])
def test_windows_end_where_episodes_start_afresh(n_step: int) -> None:
    """A run is resumed whose environments do not give their state: the episode before it has no end."""
    buffer = ReplayBuffer(ReplayConfig(capacity=100, n_step=n_step), 1.0, VECTOR, 2, 0, CPU)
    before, after = World(2, 0), World(2, 0)
    for world, reward in ((before, 1.0), (after, 100.0)):
        rollout = world.rollout(6)
        none = torch.zeros_like(rollout.terminated)
        start = none.clone()
        start[0] = True
        buffer.extend(
            rollout._replace(
                terminated=none, truncated=none, start=start, reward=torch.full_like(rollout.reward, reward)
            )
        )
    drawn = buffer.sample(400, 1)
    slots = drawn.indices[0] // 2
    steps = torch.minimum(6 - slots % 6, torch.tensor(n_step))
    early = slots < 6
    assert set(slots[early].tolist()) == set(range(6))
    assert torch.equal(drawn.reward[0][early], steps[early].float())
    assert torch.equal(drawn.discount[0], torch.ones(400))
    last = slots + steps - 1
    assert torch.equal(drawn.next_obs[0][early], buffer._store.next_obs(last * 2 + drawn.indices[0] % 2)[early])  # type: ignore[index]
    sequences = buffer.sample_sequences(50, 12)
    assert sequences.truncated.any(1).nonzero().flatten().tolist() == [5]
