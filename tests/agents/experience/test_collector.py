"""Rollouts: autoreset modes, truncation, whole episodes, episode statistics, recurrent state, exact resume."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from agents.algorithms.actor_critic_agent import ActorCriticAgent, ActorCriticConfig
from agents.algorithms.policy_gradient import PolicyGradientConfig
from agents.envs.make import Envs, InProcessEnvs, VectorEnvs, make_envs
from agents.experience.collector import LocalCollector
from agents.policies.actor_critic import ActorCritic
from agents.policies.policy import Action, Policy
from agents.returns import gae
from agents.types import Obs, Rollout
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec, Discrete, TensorSpec

LIMIT = 4


class CountEnv(gym.Env[Any, Any]):
    """Observes (episode number, step). Action 1 ends the episode; it is cut after four steps. Reward: the step."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.episode, self.t = -1, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        terminated = int(action) == 1
        return self._obs(), float(self.t), terminated, self.t == LIMIT and not terminated, {}

    def _obs(self) -> Any:
        return np.array([self.episode, self.t], np.float32)

    def state_dict(self) -> dict[str, Any]:
        return {"episode": self.episode, "t": self.t}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.episode, self.t = state["episode"], state["t"]


class Scripted(Policy):
    """Acts as the script (T, N) says."""

    def __init__(self, script: list[list[int]]) -> None:
        super().__init__()
        self.script = torch.tensor(script)
        self.parameter = torch.nn.Parameter(torch.zeros(()))

    def draw_noise(self, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        return self.script[:num_steps]

    def act(self, obs: Obs, state: Tensor | None = None, noise: Tensor | None = None) -> Action:
        assert noise is not None
        return Action(noise, state, {})


def envs_of(mode: str, num_envs: int = 2) -> Envs:
    if mode == "in_process":
        return InProcessEnvs([CountEnv] * num_envs)
    return VectorEnvs(SyncVectorEnv([CountEnv] * num_envs, autoreset_mode=AutoresetMode[mode]))


MODES = ["in_process", "SAME_STEP", "NEXT_STEP"]
#            environment 0 ends at its 3rd step; environment 1 is cut at its 4th
SCRIPT = [[0, 0], [0, 0], [1, 0], [0, 0], [0, 0], [0, 0], [0, 1], [0, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize("mode", MODES)
def test_successors_are_true_and_reset_rows_are_not_valid(mode: str) -> None:
    rollout = LocalCollector(envs_of(mode), seed=0).collect(Scripted(SCRIPT), 10)
    assert isinstance(rollout.obs, Tensor)
    assert isinstance(rollout.next_obs, Tensor)
    first = rollout.next_obs[2, 0].tolist(), bool(rollout.terminated[2, 0]), bool(rollout.truncated[2, 0])
    second = rollout.next_obs[3, 1].tolist(), bool(rollout.terminated[3, 1]), bool(rollout.truncated[3, 1])
    assert first == ([0.0, 3.0], True, False)
    assert second == ([0.0, 4.0], False, True)
    for t in range(10):
        for n in range(2):
            if rollout.valid[t, n]:  # a real step: the counter goes up by one within one episode
                episode, step = rollout.obs[t, n].tolist()
                assert rollout.next_obs[t, n].tolist() == [episode, step + 1]
                assert float(rollout.reward[t, n]) == step + 1
                assert bool(rollout.start[t, n]) == (step == 0)
    num_resets = 0 if mode != "NEXT_STEP" else int(rollout.done[:-1].sum())
    assert int((~rollout.valid).sum()) == num_resets
    assert rollout.num_env_steps == 20 - num_resets
    if mode == "NEXT_STEP":
        assert torch.equal(~rollout.valid[1:], rollout.done[:-1])


@pytest.mark.parametrize("mode", MODES)
def test_episodes_are_counted_across_rollouts(mode: str) -> None:
    collector = LocalCollector(envs_of(mode), seed=0)
    episodes = []
    for begin in range(0, 10, 2):
        episodes += collector.collect(Scripted(SCRIPT[begin : begin + 2]), 2).episodes
    whole = LocalCollector(envs_of(mode), seed=0).collect(Scripted(SCRIPT), 10).episodes
    assert episodes == whole
    assert (6.0, 3) in [tuple(e) for e in whole]  # rewards 1 + 2 + 3
    assert (10.0, 4) in [tuple(e) for e in whole]
    assert collector.statistics()["charts/episodic_length"] == pytest.approx(np.mean([e.length for e in whole]))


@pytest.mark.parametrize("mode", MODES)
def test_whole_episodes_begin_together_and_rows_after_the_end_are_not_valid(mode: str) -> None:
    collector = LocalCollector(envs_of(mode), seed=0)
    collector.collect(Scripted(SCRIPT), 2)
    rollout = collector.collect(Scripted(SCRIPT), 10, whole_episodes=True)
    assert rollout.reward.shape == (4, 2)
    assert rollout.valid.tolist() == [[True, True], [True, True], [True, True], [False, True]]
    assert rollout.start[0].all()
    assert sorted(tuple(e) for e in rollout.episodes) == [(6.0, 3), (10.0, 4)]


def test_whole_episodes_are_cut_at_the_longest_length() -> None:
    rollout = LocalCollector(envs_of("in_process"), seed=0).collect(Scripted([[0, 0]] * 3), 3, whole_episodes=True)
    assert rollout.reward.shape == (3, 2)
    assert rollout.valid.all()
    assert not rollout.episodes


# ------------------------------------------------------------------ what a policy gradient makes of it

SPEC = DataSpec(TensorSpec((2,)), actions=Discrete(2))


def agent_of(backbone: BackboneConfig, **fields: Any) -> ActorCriticAgent:
    torch.manual_seed(0)
    config: ActorCriticConfig = PolicyGradientConfig(backbone=backbone, **fields)
    agent = config.build(SPEC)
    assert isinstance(agent, ActorCriticAgent)
    return agent


class ScriptedActorCritic(ActorCritic):
    """Values and states of a network, actions of a script."""

    script: Tensor

    def draw_noise(self, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        return self.script[:num_steps]

    def act(self, obs: Obs, state: Tensor | None = None, noise: Tensor | None = None) -> Action:
        assert noise is not None
        return super().act(obs, state)._replace(action=noise)

    def array_actor(self, noise: Tensor) -> None:
        """It acts by `act` alone."""


def scripted_rollout(agent: ActorCriticAgent, mode: str, num_steps: int = 10) -> Rollout:
    agent.policy.__class__ = ScriptedActorCritic
    agent.policy.script = torch.tensor(SCRIPT)  # type: ignore[assignment]
    return LocalCollector(envs_of(mode), seed=0).collect(agent.policy, num_steps)


def stepped_values(policy: ActorCritic, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, values and successors' values (T, N), one observation after the other."""
    assert isinstance(rollout.obs, Tensor)
    assert isinstance(rollout.next_obs, Tensor)
    num_steps, num_envs = rollout.reward.shape
    going_on = torch.zeros(1, 1, dtype=torch.bool)
    logits = torch.empty(num_steps, num_envs, 2)
    values, next_values = torch.empty(2, num_steps, num_envs).unbind()
    for n in range(num_envs):
        state = policy.initial_state(1)
        for t in range(num_steps):
            if rollout.start[t, n]:
                state = policy.initial_state(1)
            x, next_x = (policy.prepared(obs[t, n][None]) for obs in (rollout.obs, rollout.next_obs))
            if policy.recurrent:
                got = policy.evaluate(x[None], state, going_on)
                _, _, state = policy._sequence_features(x[None], state, going_on)
                after = policy.evaluate(next_x[None], state, going_on)
            else:
                got, after = policy.evaluate(x), policy.evaluate(next_x)
            assert got[1] is not None
            assert after[1] is not None
            logits[t, n], values[t, n], next_values[t, n] = got[0].flatten(), got[1], after[1]
    return logits, values, next_values


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("backbone", ["mlp", "lstm", "gru"])
@torch.no_grad()
def test_a_rollout_evaluated_in_one_pass_equals_stepping_it(mode: str, shared: bool, backbone: str) -> None:
    options: dict[str, Any] = {"hidden": (8,)} if backbone == "mlp" else {"hidden": 8}
    agent = agent_of(BackboneConfig(backbone, **options), shared_backbone=shared)
    rollout = scripted_rollout(agent, mode)
    seen = agent.evaluate_rollout(rollout)
    logits, values, next_values = stepped_values(agent.policy, rollout)
    log_prob = agent.policy.distribution.log_prob_entropy(logits, rollout.action)[0]
    valid = rollout.valid
    torch.testing.assert_close(seen.values[valid], values[valid], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.log_prob[valid], log_prob[valid], atol=1e-5, rtol=1e-5)
    bootstrapped = valid & ~rollout.terminated
    torch.testing.assert_close(seen.next_values[bootstrapped], next_values[bootstrapped], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_cut_bootstraps_from_the_true_last_observation_and_an_end_does_not(mode: str) -> None:
    agent = agent_of(BackboneConfig("mlp", hidden=(8,)), gamma=0.9)
    rollout = scripted_rollout(agent, mode)
    seen = agent.evaluate_rollout(rollout)
    advantages = gae(seen.reward, seen.values, seen.next_values, seen.terminated, seen.truncated, 0.9, 1.0)
    returns = advantages + seen.values
    assert isinstance(rollout.next_obs, Tensor)
    with torch.no_grad():
        last = agent.policy.evaluate(agent.policy.prepared(rollout.next_obs[3, 1][None]))[1]
    assert last is not None
    assert float(returns[2, 0]) == pytest.approx(3.0, abs=1e-4)  # ended: the reward alone
    assert float(returns[3, 1]) == pytest.approx(4.0 + 0.9 * float(last), abs=1e-4)  # cut
    assert float(returns[0, 0]) == pytest.approx(1 + 0.9 * 2 + 0.81 * 3, abs=1e-4)


@pytest.mark.parametrize("source", ["in_process", "cartpole", "cartpole_vector"])
def test_a_restored_collector_goes_on_bit_for_bit(source: str) -> None:
    def fresh() -> LocalCollector:
        num_envs = 2 if source == "cartpole" else 5
        envs = envs_of("in_process") if source == "in_process" else make_envs("CartPole-v1", num_envs)
        return LocalCollector(envs, seed=0)

    collector = fresh()
    torch.manual_seed(0)
    policy = PolicyGradientConfig(backbone=BackboneConfig("lstm", hidden=4)).build(collector.spec).policy
    collector.collect(policy, 33)
    state = copy.deepcopy(collector.state_dict())
    expected = collector.collect(policy, 40)
    restored = fresh()
    restored.load_state_dict(state)
    got = restored.collect(policy, 40)
    for name in ("obs", "action", "reward", "terminated", "truncated", "next_obs", "start", "valid", "first_state"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name
    assert got.episodes == expected.episodes
    assert expected.episodes


@pytest.mark.parametrize("num_envs", [2, 5])
def test_cartpole_positions_hides_the_velocities_and_restores_exactly(num_envs: int) -> None:
    hidden, full = make_envs("CartPolePositions-v1", num_envs), make_envs("CartPole-v1", num_envs)
    assert hidden.spec.inputs.shape == (2,)  # type: ignore[union-attr]
    state = None
    for envs in (hidden, full):
        envs.reset(3)
    for t in range(40):
        state = hidden.state_dict() if t == 20 else state
        obs, seen = hidden.step(np.arange(num_envs) % 2).next_obs, full.step(np.arange(num_envs) % 2).next_obs
        assert isinstance(obs, np.ndarray)
        assert isinstance(seen, np.ndarray)
        np.testing.assert_array_equal(obs, seen[:, [0, 2]])
    assert state is not None
    again = make_envs("CartPolePositions-v1", num_envs)
    again.reset(0)
    again.load_state_dict(state)
    for _ in range(20):
        last = again.step(np.arange(num_envs) % 2).next_obs
    np.testing.assert_array_equal(last, obs)


# ------------------------------------------------------------------ spaces that do not begin at 0


class OffsetEnv(gym.Env[Any, Any]):
    """Discrete actions 3 to 5 and states -2 to 1: the next state is the action minus 5; float64 beside it."""

    observation_space = gym.spaces.Dict(
        {"state": gym.spaces.Discrete(4, start=-2), "x": gym.spaces.Box(-9, 9, (2,), np.float64)}
    )
    action_space = gym.spaces.Discrete(3, start=3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.state = 0, 1
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.t, self.state = self.t + 1, int(action) - 5
        return self._obs(), 1.0, self.t == 3, False, {}

    def _obs(self) -> Any:
        return {"state": np.int64(self.state), "x": np.full(2, self.t, np.float64)}


class GridEnv(OffsetEnv):
    """Actions are 2x2 arrays."""

    def __init__(self, continuous: bool) -> None:
        self.action_space = (
            gym.spaces.Box(-1, 1, (2, 2), np.float32)
            if continuous
            else gym.spaces.MultiDiscrete(np.full((2, 2), 3), start=np.full((2, 2), 5))
        )

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action, self.action_space.dtype)), action
        self.t += 1
        return self._obs(), float(np.asarray(action)[1, 0]), self.t == 3, False, {}


@pytest.mark.parametrize("mode", MODES)
def test_spaces_are_counted_from_their_start(mode: str) -> None:
    makers = [OffsetEnv] * 2
    vector = None if mode == "in_process" else SyncVectorEnv(makers, autoreset_mode=AutoresetMode[mode])
    envs: Envs = InProcessEnvs(makers) if vector is None else VectorEnvs(vector)  # type: ignore[arg-type]
    script = [[0, 1], [1, 2], [2, 0], [0, 0], [1, 1]]
    rollout = LocalCollector(envs, seed=0).collect(Scripted(script), 5)
    assert isinstance(rollout.next_obs, dict)
    assert rollout.next_obs["x"].dtype == torch.float64
    assert torch.equal(rollout.next_obs["state"][:3], torch.tensor(script[:3]))  # the action minus 5, plus 2
    assert rollout.obs["state"][0].tolist() == [3, 3]  # type: ignore[index]
    assert rollout.next_obs["x"][2].tolist() == [[3.0, 3.0]] * 2  # the true last one
    assert rollout.terminated[2].all()


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("vector", [False, True])
def test_actions_take_the_shape_of_their_space(continuous: bool, vector: bool) -> None:
    makers = [lambda: GridEnv(continuous)] * 2
    envs: Envs = VectorEnvs(SyncVectorEnv(makers)) if vector else InProcessEnvs(makers)  # type: ignore[arg-type]
    envs.reset(0)
    actions = (
        np.arange(8).reshape(2, 4) % 3 if not continuous else np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    )
    np.testing.assert_allclose(envs.step(actions).reward, actions[:, 2] + (0 if continuous else 5))


class CutEnv(gym.Env[Any, Any]):
    """Observes its step, and 100 after a reset; the `number`-th is cut after 3 + `number` steps."""

    observation_space = gym.spaces.Box(-1000, 1000, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, number: int) -> None:
        self.number, self.t = number, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        return np.full(1, 100, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.full(1, self.t, np.float32), 0.0, False, self.t == 3 + self.number, {}


@pytest.mark.parametrize("whole_episodes", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_envs", [1, 4, 7])
def test_a_cut_bootstraps_from_its_true_successor(mode: str, whole_episodes: bool, num_envs: int) -> None:
    makers = [lambda number=number: CutEnv(number) for number in range(num_envs)]
    vector = None if mode == "in_process" else SyncVectorEnv(makers, autoreset_mode=AutoresetMode[mode])  # type: ignore[arg-type]
    collector = LocalCollector(InProcessEnvs(makers) if vector is None else VectorEnvs(vector), seed=0)  # type: ignore[arg-type]
    agent = PolicyGradientConfig().build(collector.spec)
    agent.policy.values = lambda x: [x.flatten()]  # type: ignore[method-assign]  # V(s) = s
    log_prob_and_values = agent.policy.log_prob_and_values
    agent.policy.log_prob_and_values = lambda x, action: [log_prob_and_values(x, action)[0], x.flatten()]  # type: ignore[method-assign]
    rollout = collector.collect(agent.policy, 20, whole_episodes=whole_episodes)
    next_values = agent.evaluate_rollout(rollout).next_values
    assert isinstance(rollout.next_obs, Tensor)
    assert torch.equal(next_values[rollout.valid], rollout.next_obs[..., 0][rollout.valid])
    first = [int(rollout.truncated[:, i].nonzero()[0]) for i in range(num_envs)]
    assert [float(next_values[t, i]) for i, t in enumerate(first)] == [3.0 + i for i in range(num_envs)]


class InPlaceEnv(CountEnv):
    """Gives the same array again and again, and writes into its actions."""

    action_space = gym.spaces.MultiDiscrete([2, 2])  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.buffer = np.zeros(2, np.float32)

    def _obs(self) -> Any:
        self.buffer[:] = self.episode, self.t
        return self.buffer

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        result = super().step(action[0])
        action[:] = -1
        return result


class InPlaceDictEnv(InPlaceEnv):
    """The same array within a dict."""

    observation_space = gym.spaces.Dict({"x": CountEnv.observation_space})  # type: ignore[assignment]

    def _obs(self) -> Any:
        return {"x": super()._obs()}


@pytest.mark.parametrize("maker", [InPlaceEnv, InPlaceDictEnv])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_what_an_environment_writes_over_is_copied(maker: Any, num_envs: int) -> None:
    script = torch.zeros(10, num_envs, 2, dtype=torch.int64).tolist()
    rollout = LocalCollector(InProcessEnvs([maker] * num_envs), seed=0).collect(Scripted(script), 10)
    obs, next_obs = (x["x"] if isinstance(x, dict) else x for x in (rollout.obs, rollout.next_obs))
    steps = torch.arange(10) % LIMIT
    assert obs[..., 1].T.tolist() == [steps.tolist()] * num_envs
    assert next_obs[..., 1].T.tolist() == [(steps + 1).tolist()] * num_envs
    assert not rollout.action.any()
