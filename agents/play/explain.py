"""Explanations of a policy's actions: the scores of all actions, and the pixels that move the best one's.

The map of an image policy is the gradient of the chosen action's score, averaged over noisy copies of the picture
(SmoothGrad, Smilkov et al. 2017), by Captum. N environments, K choices, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from agents.envs.make import InProcessEnvs
from agents.play.key_bindings import action_names
from agents.policies.policy import Policy, Preferences
from agents.types import Frame, Obs, to_float
from lab.data.spec import Actions, MultiDiscrete
from lab.errors import UserError

_NOISY_COPIES, _NOISE = 8, 0.05
_IMAGE_DIMS = 4  # (N, C, H, W)
_MIN_HEIGHT, _WIDTH, _ROW, _EDGE = 300, 230, 34, 12
_MOST_ROWS = 18
_PAPER, _INK, _SOFT, _BAR, _CHOSEN = (250, 250, 248), (30, 34, 42), (130, 138, 150), (178, 196, 222), (47, 111, 222)


class Explanation(NamedTuple):
    """Of a policy's action at one observation."""

    preferences: Preferences  # of one environment
    names: tuple[str, ...]
    """of the K choices, or of a continuous action's components"""
    chosen: tuple[int, ...]
    """the best choice of each action component; empty for continuous actions"""
    saliency_picture: Frame | None
    """the observation of an image policy in grey, the pixels that move its choice in red"""

    @property
    def scores(self) -> list[float]:
        values: list[float] = self.preferences.scores[0].tolist()
        return values

    @property
    def value(self) -> float | None:
        return None if self.preferences.value is None else float(self.preferences.value[0])

    @property
    def title(self) -> str:
        return {"probability": "action probabilities", "Q-value": "Q-values", "action": "action"}[self.preferences.kind]


class Explainer:
    """Explains a policy's actions. Raises UserError for an image policy when Captum is not installed."""

    def __init__(self, policy: Policy, actions: Actions, names: tuple[str, ...], obs: Obs) -> None:
        self.policy, self.actions, self.names = policy, actions, names
        self.sees_images = isinstance(obs, Tensor) and obs.dim() == _IMAGE_DIMS
        if self.sees_images:
            _captum()

    def explain(self, obs: Obs, state: Tensor | None) -> Explanation:
        """The explanation of the action at one observation (1, ...)."""
        with torch.no_grad():
            preferences = self.policy.preferences(obs, state)
        picture = None
        if self.sees_images:
            assert isinstance(obs, Tensor)
            picture = overlay(_grey(obs), saliency(self.policy, obs, state))
        return Explanation(preferences, self.names, self._chosen(preferences), picture)

    def _chosen(self, preferences: Preferences) -> tuple[int, ...]:
        if preferences.kind == "action":
            return ()
        scores = preferences.scores[0]
        if not isinstance(self.actions, MultiDiscrete):
            return (int(scores.argmax()),)
        chosen, first = [], 0
        for num in self.actions.nums:
            chosen.append(first + int(scores[first : first + num].argmax()))
            first += num
        return tuple(chosen)


def explainer_of(policy: Policy, env_id: str) -> Callable[[InProcessEnvs, Obs], Explainer]:
    """Builds the explainer of a policy, from the environment and its first observation."""

    def build(envs: InProcessEnvs, obs: Obs) -> Explainer:
        actions = envs.spec.actions
        assert actions is not None
        return Explainer(policy, actions, action_names(env_id, envs.envs[0], actions), obs)

    return build


def saliency(policy: Policy, obs: Tensor, state: Tensor | None = None) -> Tensor:
    """How strongly each pixel (H, W) of an observation (1, C, H, W) moves the score of the best choice, 0 to 1."""
    captum = _captum()

    def score(x: Tensor) -> Tensor:
        preferences = policy.preferences(x, None if state is None else state.expand(-1, len(x), -1))
        scores = preferences.scores
        if preferences.kind == "probability":
            return scores.clamp_min(1e-12).log()
        return scores.abs().sum(1, keepdim=True) if preferences.kind == "action" else scores

    x = to_float(obs)
    with torch.enable_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(0)
        best = score(x).argmax(1)
        gradient = captum.NoiseTunnel(captum.Saliency(score)).attribute(
            x.requires_grad_(), nt_type="smoothgrad", nt_samples=_NOISY_COPIES, stdevs=_NOISE, target=best, abs=True
        )
    heat: Tensor = gradient[0].detach().sum(_channel_axis(obs)).cpu()
    strong = heat.flatten().quantile(0.995).clamp_min(1e-12)  # a single pixel does not dim all others
    return (heat / strong).clamp(0, 1)


def overlay(grey: Frame, heat: Tensor) -> Frame:
    """A grey picture (H, W) with a heat map (H, W) of 0 to 1 in red over it, (H, W, 3)."""
    share = heat.numpy()[..., None] ** 0.7
    red = np.array([255.0, 40.0, 30.0])
    mixed: Frame = (grey[..., None] * (1 - share) + red * share).astype(np.uint8)
    return mixed


def beside(frame: Frame, explanation: Explanation) -> Frame:
    """The frame with a panel to its right: a bar for each choice, the value, and an image policy's saliency map."""
    scale = max(1, -(-_MIN_HEIGHT // frame.shape[0]))
    picture = Image.fromarray(frame).resize((frame.shape[1] * scale, frame.shape[0] * scale), Image.Resampling.NEAREST)
    panel = _panel(explanation)
    height = max(picture.height, panel.height)
    both = Image.new("RGB", (picture.width + panel.width, height + height % 2), _PAPER)
    both.paste(picture, (0, 0))
    both.paste(panel, (picture.width, 0))
    return np.asarray(both)


def lines(explanation: Explanation, columns: int = 60) -> list[str]:
    """The same as text, a bar of characters for each choice."""
    name_width = max(map(len, explanation.names), default=0)
    bar_width = max(8, columns - name_width - 14)
    text = [explanation.title + ("" if explanation.value is None else f", value {explanation.value:.4g}")]
    for index, row in enumerate(_rows(explanation)):
        mark = ">" if index in explanation.chosen else " "
        first, last = (round(share * bar_width) for share in (row.first, row.last))
        bar = " " * first + "█" * (last - first)
        text.append(f"{mark} {row.name:<{name_width}} {row.score:>9.4g} {bar:<{bar_width}}")
    return text


class _Row(NamedTuple):
    """A choice, and where its bar begins and ends, as shares of the room."""

    name: str
    score: float
    first: float
    last: float


def _rows(explanation: Explanation) -> list[_Row]:
    """All bars begin at zero, to the left for numbers below it, and have one scale: that of probabilities ends at 1,
    that of actions at 1 or further on both sides, that of values at the largest."""
    scores = explanation.scores
    low, high = min(0.0, *scores), max(0.0, *scores)
    if explanation.preferences.kind == "probability":
        high = 1.0
    elif explanation.preferences.kind == "action":
        high = max(1.0, -low, high)
        low = -high
    zero, span = -low / ((high - low) or 1.0), (high - low) or 1.0
    ends = [sorted((zero, zero + score / span)) for score in scores]
    triples = zip(explanation.names, scores, ends, strict=False)
    return [_Row(name, score, first, last) for name, score, (first, last) in triples]


def _panel(explanation: Explanation) -> Image.Image:
    """The picture of the panel: `_WIDTH` pixels wide, as high as it needs."""
    rows = _rows(explanation)[:_MOST_ROWS]
    room = _WIDTH - 2 * _EDGE
    picture = None
    if explanation.saliency_picture is not None:
        height = round(room * explanation.saliency_picture.shape[0] / explanation.saliency_picture.shape[1])
        picture = Image.fromarray(explanation.saliency_picture).resize((room, height), Image.Resampling.NEAREST)
    top = _EDGE + 24 + (0 if explanation.value is None else 20)
    panel = Image.new("RGB", (_WIDTH, top + _ROW * len(rows) + (0 if picture is None else picture.height + 34)), _PAPER)
    draw = ImageDraw.Draw(panel)
    large, small = ImageFont.load_default(size=14), ImageFont.load_default(size=12)
    draw.text((_EDGE, _EDGE), explanation.title, fill=_INK, font=large)
    if explanation.value is not None:
        draw.text((_EDGE, _EDGE + 20), f"value {explanation.value:.4g}", fill=_SOFT, font=small)
    for index, row in enumerate(rows):
        y = top + index * _ROW
        chosen = index in explanation.chosen
        draw.text((_EDGE, y), row.name, fill=_INK, font=small)
        number = f"{row.score:.4g}"
        draw.text((_WIDTH - _EDGE - draw.textlength(number, font=small), y), number, fill=_INK, font=small)
        first, last = (_EDGE + round(share * room) for share in (row.first, row.last))
        draw.rectangle((first, y + 18, max(first + 1, last), y + 27), fill=_CHOSEN if chosen else _BAR)
    if picture is not None:
        y = top + _ROW * len(rows)
        draw.text((_EDGE, y), "what moves the choice", fill=_SOFT, font=small)
        panel.paste(picture, (_EDGE, y + 20))
    return panel


def _grey(obs: Tensor) -> Frame:
    """The newest picture (H, W) of an observation (1, C, H, W), or of (1, H, W, C)."""
    axis = _channel_axis(obs)
    x = to_float(obs)[0]
    x = 255 * x / x.max().clamp_min(1.0)
    colour = obs.shape[axis + 1] == 3
    picture = x.mean(axis) if colour else x.select(axis, -1)
    grey: Frame = picture.cpu().numpy().astype(np.uint8)
    return grey


def _channel_axis(obs: Tensor) -> int:
    """Which axis of a picture without its batch axis counts channels: the shorter of the first and the last."""
    return 0 if obs.shape[1] <= obs.shape[3] else 2


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError:
        raise UserError("--explain of an image policy draws its map with Captum: pip install 'lab[explain]'.") from None
    return captum.attr
