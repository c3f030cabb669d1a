"""What a policy thinks while it plays: the numbers are its own, and the map shows the pixels that matter."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.play.explain import Explainer, Explanation, beside, lines, saliency
from agents.policies.policy import Action, Policy, Preferences
from agents.types import Obs
from lab.config.overrides import override
from lab.config.recipes import find
from lab.data.spec import Discrete, MultiDiscrete
from lab.errors import UserError
from lab.training.restore import restore
from lab.training.train import train

Lab = Callable[..., Any]


class Corner(Policy):
    """Likes its second action as much as the upper left corner is bright."""

    def __init__(self, kind: Any = "Q-value") -> None:
        super().__init__()
        self.weight, self.kind = nn.Parameter(torch.ones(())), kind

    def preferences(self, obs: Obs, state: Tensor | None = None) -> Preferences:
        assert isinstance(obs, Tensor)
        x = obs.float() / 255 if obs.dtype == torch.uint8 else obs
        score = self.weight * x[:, :, :4, :4].square().sum((1, 2, 3))
        scores = torch.stack([torch.zeros_like(score), score], 1)
        return Preferences(self.kind, scores.softmax(1) if self.kind == "probability" else scores)


@pytest.mark.parametrize("kind", ["Q-value", "probability", "action"])
def test_the_map_is_bright_where_the_choice_comes_from(kind: str) -> None:
    obs = torch.randint(50, 200, (1, 3, 16, 16), dtype=torch.uint8)
    state = torch.get_rng_state()
    heat = saliency(Corner(kind), obs)
    assert heat.shape == (16, 16)
    assert heat[:4, :4].min() > 0.1
    assert heat[4:].max() == 0
    assert heat[:, 4:].max() == 0
    assert torch.equal(torch.get_rng_state(), state)  # looking changes nothing


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Barely trained agents of three families."""
    folder = tmp_path_factory.mktemp("explain")
    paths = {}
    for name, settings in {
        "pg/cartpole": ["trainer.budget=2048", "data.rounds=2"],
        "ppo/pendulum": ["trainer.budget=4096"],
        "q-learning/taxi": ["trainer.budget=2000"],
    }.items():
        paths[name] = folder / name.replace("/", "-")
        train(
            override(find(name)(), [*settings, "trainer.eval_period=4096", "tracking.mode=disabled"]),
            run_dir=paths[name],
        )
    return paths


def explained(path: Path, obs: Tensor) -> tuple[Explanation, Policy]:
    from lab.runs.directory import Run

    _, data, module, _ = restore(Run.open(path))
    data.close()
    actions = module.data_spec.actions
    policy: Any = module.policy
    names = tuple(f"a{k}" for k in range(getattr(actions, "num", 0)))
    return Explainer(policy, actions, names, obs).explain(obs, policy.initial_state(1)), policy


@pytest.mark.slow
def test_probabilities_are_the_policys_own(runs: dict[str, Path]) -> None:
    obs = torch.tensor([[0.01, 0.2, -0.03, 0.4]])
    explanation, policy = explained(runs["pg/cartpole"], obs)
    assert explanation.title == "action probabilities"
    assert sum(explanation.scores) == pytest.approx(1)
    assert explanation.chosen == (int(policy.act(obs).action),)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        drawn = policy.act(obs.expand(20_000, -1), None, policy.draw_noise(1, 20_000, generator)[0]).action
    assert float((drawn == 0).float().mean()) == pytest.approx(explanation.scores[0], abs=0.02)
    assert explanation.value == pytest.approx(float(policy.evaluate(policy.normalized(obs))[1]))  # type: ignore[operator]


@pytest.mark.slow
def test_a_continuous_action_is_what_the_environment_gets(runs: dict[str, Path]) -> None:
    obs = torch.tensor([[1.0, 0.0, 8.0]])
    explanation, policy = explained(runs["ppo/pendulum"], obs)
    assert explanation.chosen == ()
    assert explanation.scores == policy.env_action(policy.act(obs).action)[0].tolist()


@pytest.mark.slow
def test_q_values_are_the_tables(runs: dict[str, Path]) -> None:
    explanation, policy = explained(runs["q-learning/taxi"], torch.tensor([7]))
    assert explanation.title == "Q-values"
    assert explanation.scores == policy.table[7].tolist()  # type: ignore[index]


def test_each_component_of_several_actions_has_a_choice() -> None:
    class Two(Policy):
        def preferences(self, obs: Obs, state: Tensor | None = None) -> Preferences:
            return Preferences("probability", torch.tensor([[0.2, 0.8, 0.5, 0.1, 0.4]]), torch.tensor([1.5]))

    explanation = Explainer(Two(), MultiDiscrete((2, 3)), tuple("abcde"), torch.zeros(1, 4)).explain(
        torch.zeros(1, 4), None
    )
    assert explanation.chosen == (1, 2)
    text = lines(explanation, 60)
    assert text[0] == "action probabilities, value 1.5"
    assert [line[0] for line in text[1:]] == [" ", ">", ">", " ", " "]
    assert text[2].count("█") == 4 * text[1].count("█")


def test_the_panel_grows_with_what_is_shown() -> None:
    obs = torch.randint(0, 255, (1, 4, 84, 84), dtype=torch.uint8)
    explanation = Explainer(Corner(), Discrete(2), ("up", "down"), obs).explain(obs, None)
    frame = np.zeros((210, 160, 3), np.uint8)
    whole = beside(frame, explanation)
    assert whole.shape[0] >= 420
    assert whole.shape[1] == 320 + 230
    assert whole[:420, :320].max() == 0  # the frame is untouched
    red = (whole[..., 0].astype(int) - whole[..., 1] > 60).sum()
    assert red > 50  # the corner


def test_without_captum_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UserError, match=r"lab\[explain\]"):
        Explainer(Corner(), Discrete(2), ("up", "down"), torch.zeros(1, 3, 8, 8))


def test_a_policy_that_says_nothing_shows_its_action() -> None:
    class Silent(Policy):
        def act(self, obs: Obs, state: Tensor | None = None, noise: Tensor | None = None) -> Action:
            return Action(torch.tensor([[0.25, -1.0]]), None, {})

    shown = Explainer(Silent(), None, ("gas", "brake"), torch.zeros(1, 3)).explain(torch.zeros(1, 3), None)
    assert shown.scores == [0.25, -1.0]
    assert lines(shown)[2].split()[:2] == ["brake", "-1"]


@pytest.mark.slow
def test_play_explains_in_the_film_and_in_the_terminal(
    lab: Lab, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setattr("agents.episodes.time.sleep", lambda seconds: None)

    film = tmp_path / "pole.gif"
    done = lab("play", runs["pg/cartpole"], "--episodes", 1, "--render", "ansi", "--explain", "--video", film)
    assert done.code == 0
    assert "push left" in done.out
    assert "action probabilities, value" in done.out
    with Image.open(film) as image:
        assert image.size == (600 + 230, 400)


@pytest.mark.slow
def test_play_explains_in_a_window_of_its_own(lab: Lab, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from agents.play.screens import GameWindow

    sizes = []
    inner = GameWindow.__call__

    def seen(self: GameWindow, frame: Any, explanation: Explanation | None = None) -> None:
        inner(self, frame, explanation)
        sizes.append(self._screen.get_size())
        self.closed = len(sizes) == 5

    monkeypatch.setattr(GameWindow, "__call__", seen)
    monkeypatch.setenv("DISPLAY", ":0")
    done = lab("play", runs["pg/cartpole"], "--render", "human", "--explain")
    assert done.code == 0
    assert sizes == [(830, 400)] * 5
    assert "no episode was finished" in done.out
