"""Other libraries' remarks, made for those who write them, kept off the screen."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


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
