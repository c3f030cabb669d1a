"""Screens for the pictures of an episode: a window, the terminal, a film. A frame is (H, W, 3) uint8."""

from __future__ import annotations

import shutil
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from agents.episodes import OnFrame
from agents.play.explain import Explanation, beside, lines
from agents.play.video import to_blocks
from agents.types import Frame

_MIN_HEIGHT = 400
_COLUMNS = 100


class GameWindow:
    """A window that shows pictures, and hears keys."""

    def __init__(self, title: str) -> None:
        import pygame

        self._pygame: Any = pygame
        pygame.init()
        pygame.display.set_caption(title)
        self._screen: Any = None
        self.keys_down: list[str] = []
        """the keys that are held now, by pygame's names, the newest last"""
        self._tapped: list[str] = []
        self.closed = False

    def __call__(self, frame: Frame, explanation: Explanation | None = None) -> None:
        """Show a frame, with the explanation beside it."""
        if explanation is not None:
            frame = beside(frame, explanation)
        scale = max(1, -(-_MIN_HEIGHT // frame.shape[0]))
        size = (frame.shape[1] * scale, frame.shape[0] * scale)
        if self._screen is None or self._screen.get_size() != size:
            self._screen = self._pygame.display.set_mode(size)
        surface = self._pygame.surfarray.make_surface(np.ascontiguousarray(frame.swapaxes(0, 1)))
        self._screen.blit(self._pygame.transform.scale(surface, size), (0, 0))
        self._pygame.display.flip()
        self.listen()

    def listen(self) -> None:
        """Read which keys were pressed and released; Escape or the closed window set `closed`."""
        pygame = self._pygame
        for event in pygame.event.get():
            if event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE):
                self.closed = True
            elif event.type == pygame.KEYDOWN:
                self.keys_down.append(pygame.key.name(event.key))
                self._tapped.append(pygame.key.name(event.key))
            elif event.type == pygame.KEYUP and pygame.key.name(event.key) in self.keys_down:
                self.keys_down.remove(pygame.key.name(event.key))

    def take_keys(self) -> list[str]:
        """The keys that are held, and those that were pressed since this was last asked, however short."""
        keys = list(dict.fromkeys([*self.keys_down, *self._tapped]))
        self._tapped.clear()
        return keys

    def close(self) -> None:
        """Close the window."""
        self._pygame.display.quit()


class Terminal:
    """Coloured blocks in the terminal, with the explanation below them."""

    def __init__(self) -> None:
        sys.stdout.write("\x1b[2J")

    def __call__(self, frame: Frame, explanation: Explanation | None = None) -> None:
        columns = min(shutil.get_terminal_size().columns, _COLUMNS)
        text = to_blocks(frame, columns) + "\n"
        if explanation is not None:
            if explanation.saliency_picture is not None:
                text += to_blocks(explanation.saliency_picture, columns // 2) + "\n"
            text += "".join(line[:columns] + "\x1b[K\n" for line in lines(explanation, columns))
        sys.stdout.write("\x1b[H" + text)
        sys.stdout.flush()


class Film:
    """Frames of a film, with the explanations beside them; compressed, since minutes of them fill gigabytes."""

    def __init__(self) -> None:
        self._packed: list[tuple[bytes, tuple[int, ...]]] = []

    def __call__(self, frame: Frame, explanation: Explanation | None = None) -> None:
        if explanation is not None:
            frame = beside(frame, explanation)
        self._packed.append((zlib.compress(frame.tobytes(), 1), frame.shape))

    @property
    def num_frames(self) -> int:
        """How many there are."""
        return len(self._packed)

    @property
    def frames(self) -> Iterator[Frame]:
        """All of them, one after the other."""
        for packed, shape in self._packed:
            yield np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape)


def to_all(screens: Sequence[OnFrame]) -> OnFrame | None:
    """One callback for several screens; None for none."""
    if not screens:
        return None

    def on_frame(frame: Frame, explanation: Explanation | None) -> None:
        for screen in screens:
            screen(frame, explanation)

    return on_frame
