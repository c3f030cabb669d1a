"""Remarks of other libraries: some are kept off the screen for a while, warnings become lines of the log."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("lab")
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|[\x00-\x08\x0e-\x1f\x7f]")
"""what a terminal would obey: colours, titles, bells"""
_LONGEST = 300
"""characters of a warning that are told"""


@contextmanager
def quiet(*loggers: str, module: str = "") -> Iterator[None]:
    """Only errors of these loggers are shown, and no warnings of modules whose name begins with `module`."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in loggers}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=module)
        try:
            yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)


@contextmanager
def warnings_in_lines() -> Iterator[None]:
    """Each warning becomes one line of the log, without the code that raised it.

    Warnings of one place that differ by their numbers alone are told once.
    """
    kinds: set[tuple[str, int, str]] = set()

    def tell(message: Any, category: type[Warning], filename: str, lineno: int, *others: Any) -> None:
        text = " ".join(_CONTROL.sub("", str(message)).split()).removeprefix("WARN: ")
        kind = (filename, lineno, re.sub(r"\d+", "", text))
        if kind not in kinds:
            kinds.add(kind)
            log.warning("%s", text[:_LONGEST] or category.__name__)

    with warnings.catch_warnings():
        warnings.showwarning = tell  # type: ignore[assignment]
        yield
