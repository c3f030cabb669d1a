"""Modules that run when they are first used, for importers that only want to have them at hand.

The standard library's LazyLoader would run them at once: it takes the import system's own look at a module's
`__spec__`, when the module is imported a second time, for a use.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any, NamedTuple

_lock = threading.Lock()
_LOOKS = ("__class__", "__file__", "__warningregistry__", "__wrapped__", "__iter__", "__len__", "__bases__", "__name__")
"""names that are asked for by who looks at all modules, and so do not run one"""


class Held(NamedTuple):
    """What a module gives without running.

    Args:
        at_import: names that its importers take; afterwards they are no longer given, and asking for them runs it.
        parts: of such names, in which of its submodules they are.
        until_used: names that are given for as long as nobody asks for any other.
    """

    at_import: Mapping[str, Any] = {}
    parts: Mapping[str, str] = {}
    until_used: Mapping[str, Any] = {}


class StandIn:
    """A class that is taken by name from a module that has not run: in annotations, and to compare types with later."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return getattr(used(self._module), self._name)(*arguments, **options)

    def __instancecheck__(self, instance: object) -> bool:
        """Nothing is an instance of a class whose module has not run."""
        return not waits(self._module) and isinstance(instance, getattr(used(self._module), self._name))


class _Waiting(ModuleType):
    """A module that has not run. It does when it is asked for what it does not have.

    The import of a submodule asks its package for `__path__`, so that a package runs before its parts, as always.
    """

    def __init__(self, spec: ModuleSpec, held: Held) -> None:
        super().__init__(spec.name)
        del vars(self)["__doc__"]
        at_import = {"__path__": spec.submodule_search_locations, **held.at_import}
        held = held._replace(at_import=at_import)
        vars(self).update(__spec__=spec, __loader__=spec.loader, __package__=spec.parent, __file__=spec.origin)
        vars(self).update(_held=held)

    def __getattr__(self, name: str) -> Any:
        held = vars(self).get("_held", Held())
        if name in held.parts:
            return getattr(import_module(held.parts[name]), name)
        for given in (held.at_import, held.until_used):
            if name in given:
                return given[name]
        package = vars(self)["__spec__"].submodule_search_locations is not None
        if package if name == "__path__" else name not in _LOOKS:
            _run(self)
            if type(self) is ModuleType:
                return getattr(self, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("__") and not isinstance(value, ModuleType):  # which the import system sets
            _run(self)
        ModuleType.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        _run(self)
        ModuleType.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        _run(self)
        return sorted(vars(self))

    def __reduce__(self) -> Any:
        return import_module, (self.__name__,)


_Waiting.__doc__ = property(lambda module: used(module.__name__).__doc__)  # type: ignore[assignment]


class _Finder:
    """Lets the import system, with its locks, run a module that waited: in the same object, not in a new one."""

    def __init__(self) -> None:
        self.begun: dict[str, _Waiting] = {}

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in self.begun:
            return None
        spec = copy(vars(self.begun[name])["_spec"])
        spec.loader = _Loader(spec.loader, self.begun[name])
        return spec


class _Loader:
    def __init__(self, real: Any, module: _Waiting) -> None:
        self.real, self.module = real, module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        vars(self.module).update(vars(module_from_spec(vars(self.module)["_spec"])))
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.real
        self.real.exec_module(module)
        module.__class__ = ModuleType
        _FINDER.begun.pop(module.__name__, None)
        for own in ("_held", "_spec"):
            del vars(module)[own]


_FINDER = _Finder()


def _run(module: ModuleType) -> None:
    """Run a module's code, after its package's. A thread that comes while another does it waits for it."""
    name = module.__name__
    other = sys.modules.get(name)
    if other is not module and other is not None and isinstance(module, _Waiting) and "_spec" not in vars(module):
        vars(module).update(vars(other))  # somebody has imported it anew
        object.__setattr__(module, "__class__", ModuleType)
        return
    parent = sys.modules.get(name.rpartition(".")[0])
    if type(parent) is _Waiting:
        _run(parent)
    with _lock:
        if isinstance(module, _Waiting) and "_spec" not in vars(module):
            vars(module).update(_spec=vars(module)["__spec__"], _held=Held())
            _FINDER.begun[name] = module
            sys.modules.pop(name, None)
    import_module(name)


def waits(name: str) -> bool:
    """Whether a module has been imported and has not run."""
    return type(sys.modules.get(name)) is _Waiting


def used(name: str) -> ModuleType:
    """A module that has run."""
    module = import_module(name)
    _run(module)
    return module


@contextmanager
def waiting(modules: Mapping[str, Held]) -> Iterator[None]:
    """Let modules wait, when they are imported in this block, until they are used, there or later.

    Args:
        modules: by name, packages before their parts. Those that have run already, or are not installed, are left as
            they are.
    """
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    added = []
    for name, held in modules.items():
        spec = None if name in sys.modules else _find_spec(name)
        if spec is not None:
            sys.modules[name] = module = _Waiting(spec, held)
            parent, _, own = name.rpartition(".")
            if parent:
                vars(sys.modules[parent])[own] = module
            added.append(module)
    try:
        yield
    finally:
        for module in added:
            if "_held" in vars(module):
                vars(module)["_held"] = Held(until_used=vars(module)["_held"].until_used)


def _find_spec(name: str) -> ModuleSpec | None:
    """Where a module is, without running its package."""
    parent = name.rpartition(".")[0]
    if not parent:
        return find_spec(name)
    if parent not in sys.modules:
        return None
    return PathFinder.find_spec(name, vars(sys.modules[parent])["__spec__"].submodule_search_locations)
