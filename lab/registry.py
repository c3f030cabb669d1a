"""Names for functions and classes: backbones, data sets, launchers, kinds of configs.

    FLAVOURS: Registry[Callable[..., Flavour]] = Registry("register_flavour", "flavour", "flavours")

    @register_flavour("sour")
    def sour() -> Flavour: ...

The catalog reads such declarations from the source, so that a name is known, listed and completed before anything is
imported; asking for it imports the module that registers it. Names of the lab's own packages and of installed plugins
are found so; those of other packages join when the user lets their module be imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from lab import catalog
from lab.errors import unknown

T = TypeVar("T")


class _Registration(NamedTuple):
    """A registered value and the function or class that it was made of."""

    value: Any
    origin: Any

    @property
    def place(self) -> tuple[str, str]:
        return self.origin.__module__, self.origin.__qualname__


class Registry(Generic[T]):
    """Values by name.

    Args:
        decorator: what registers a value, as it stands in the source: a function whose name begins with `register`.
        noun: what a value is called in error messages.
        section: under which heading `lab list` shows the names; "" for names that it does not show.
    """

    def __init__(self, decorator: str, noun: str, section: str = "") -> None:
        self.decorator, self.noun, self.section = decorator, noun, section
        self._registrations: dict[str, _Registration] = {}
        self._libraries: dict[str, Callable[[str], T]] = {}

    def add_library(self, prefix: str, value_of: Callable[[str], T]) -> None:
        """Let names `prefix:name` stand for what another library calls `name`; they are not listed.

        `value_of` raises UserError for a name that it does not know. The prefix stands in `catalog.LIBRARIES`.
        """
        self._libraries[prefix] = value_of

    def add(self, name: str, value: T, origin: Any = None) -> None:
        """Register a value, made of the function or class `origin`, by default the value itself.

        Raises ValueError when another one has the name already.
        """
        new = _Registration(value, value if origin is None else origin)
        old = self._registrations.get(name)
        if old is not None and old.place != new.place:
            raise ValueError(f"{self.noun} {name!r} is already registered by {old.place[0]}")
        self._registrations[name] = new

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that registers what it decorates. It raises ValueError for a taken name."""

        def decorate(value: T) -> T:
            self.add(name, value)
            return value

        return decorate

    def get(self, name: str) -> T | None:
        """The value of a name, or None; the module that registers it is imported first."""
        prefix, colon, rest = name.partition(":")
        if colon and prefix in self._libraries:
            return self._libraries[prefix](rest)
        if name not in self._registrations:
            catalog.import_registered(self.decorator, name)
        registration = self._registrations.get(name)
        return None if registration is None else registration.value

    def __getitem__(self, name: str) -> T:
        """The value of a name. Raises UserError with the nearest name and the valid choices."""
        value = self.get(name)
        if value is None:
            raise unknown(self.noun, name, self.names())
        return value

    def names(self) -> list[str]:
        """Every name, imported or known from the source."""
        return sorted({*self._registrations, *catalog.scan().registered.get(self.decorator, ())})

    def imported(self) -> dict[str, T]:
        """The values that are registered by now."""
        return {name: registration.value for name, registration in self._registrations.items()}

    def of_script(self) -> list[str]:
        """The names that the running script or notebook registered itself, which no other process knows."""
        return [name for name, registration in self._registrations.items() if registration.place[0] == "__main__"]

    def summaries(self) -> dict[str, str]:
        """The values that are registered by now, each with the first line of its docstring."""
        return {
            name: (inspect.getdoc(registration.origin) or "").partition("\n")[0]
            for name, registration in self._registrations.items()
        }
