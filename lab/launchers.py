"""What takes an experiment or a sweep to where it runs, when that is more than this process.

`workers` trains one experiment by several processes, `sweep` goes on with a sweep, `new_sweep` begins one. The kernel
calls them by name; a package that can do it registers a function, and is imported only then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lab.errors import UserError
from lab.registry import Registry

Launcher = Callable[..., Any]
LAUNCHERS: Registry[Launcher] = Registry("register_launcher", "launcher")


def register_launcher(name: str) -> Callable[[Launcher], Launcher]:
    """Register a function as the launcher `name`. Raises ValueError for a taken name."""
    return LAUNCHERS.register(name)


def launch(name: str, /, *arguments: Any, **options: Any) -> Any:
    """What the launcher of a name returns for these arguments.

    Raises UserError when no package has such a launcher, or when a package that it needs is not installed.
    """
    try:
        return LAUNCHERS[name](*arguments, **options)
    except ModuleNotFoundError as error:
        raise UserError(f"launcher {name!r} needs the package {error.name!r}, which is not installed.") from error
