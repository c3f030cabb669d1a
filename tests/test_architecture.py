"""Which part may know which: cluster -> agents -> lab <- generative, floors within each, no circles; what is loaded."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("lab", "agents", "generative", "cluster")
MAY_IMPORT = {"lab": set(), "agents": {"lab"}, "generative": {"lab"}, "cluster": {"lab", "agents"}}
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
FLOORS = {  # from the top; what is named here in none stands on the ground floor, below all
    "lab": (
        *("commands", "cli", "comparison", "diagnostics", "supervised", "training", "export"),
        *("data", "backbones", "engine", "ranks", "runs", "config"),
    ),
    "agents": ("commands", "algorithms", "play", "episodes", "experience", "policies", "replay", "envs"),
    "generative": ("commands", "sampling", "adversarial", "latent", "autoregressive", "learner", "evaluation"),
    "cluster": ("commands", "sweep", "ranks", "collect", "rllib", "jobs", "session"),
}
GROUND = {
    "lab": {
        "__init__",
        "caches",
        "catalog",
        "errors",
        "experiment",
        "foreign",
        "launchers",
        "lazy",
        "lightning",
        "interrupts",
        "long_work",
        "pictures",
        "plugins",
        "quiet",
        "registry",
        "seeding",
    },
    "agents": {"__init__", "returns", "types"},
    "generative": {"__init__", "decoders", "export", "likelihoods"},
    "cluster": {"__init__", "deploy"},
}


def imports(path: Path, *, at_import_time: bool) -> Iterator[tuple[str, int]]:
    """The modules that a file imports, with line numbers; at import time: outside functions and TYPE_CHECKING."""

    def visit(node: ast.AST) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno} is a relative import"
                yield child.module or "", child.lineno
            elif at_import_time and (
                isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
            ):
                continue
            else:
                yield from visit(child)

    yield from visit(parsed(path))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_imports_point_the_right_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for module, line in imports(path, at_import_time=False):
        top = module.partition(".")[0]
        if top in PACKAGES and top != package:
            assert top in MAY_IMPORT[package], f"{path.relative_to(ROOT)}:{line} imports {module}"
        if top == "ray":
            assert package == "cluster", f"{path.relative_to(ROOT)}:{line} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_wandb_and_torchvision_are_never_imported_early(path: Path) -> None:
    for module, line in imports(path, at_import_time=True):
        top = module.partition(".")[0]
        assert top not in ("wandb", "datasets", "moviepy"), f"{path.relative_to(ROOT)}:{line} imports {module}"
    for module, line in imports(path, at_import_time=False):
        assert module.partition(".")[0] != "torchvision", f"{path.relative_to(ROOT)}:{line}"


@lru_cache
def parsed(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path: Path) -> str:
    """The name of a file's module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@lru_cache
def import_graph() -> dict[str, set[str]]:
    """The modules of the four houses that each of them imports, in functions and TYPE_CHECKING blocks too."""
    modules = {module_of(path): path for path in FILES}
    graph = {}
    for module, path in modules.items():
        targets = set()
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                targets |= {name if name in modules else str(node.module) for name in names}
        graph[module] = (targets & set(modules)) - {module}
    return graph


def floor(module: str) -> int:
    """How far a module's room lies below the top of its house."""
    house, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    return FLOORS[house].index(room) if room in FLOORS[house] else len(FLOORS[house])


def circles(graph: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """The sets of modules each of which leads to all others of its set."""

    def reachable(start: str) -> set[str]:
        waiting, targets = [start], set[str]()
        while waiting:
            new = graph[waiting.pop()] - targets
            targets |= new
            waiting += new
        return targets

    reach = {module: reachable(module) for module in graph}
    return {
        tuple(sorted({module, *(other for other in reach[module] if module in reach[other])}))
        for module in graph
        if module in reach[module]
    }


def test_every_room_has_a_floor() -> None:
    for package in PACKAGES:
        rooms = {path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or path.is_dir()}
        assert rooms - {"__pycache__"} == {*FLOORS[package], *GROUND[package]}, package


@pytest.mark.slow
def test_a_room_imports_only_rooms_below_it() -> None:
    climbing = {
        (module, target)
        for module, targets in import_graph().items()
        for target in targets
        if module.partition(".")[0] == target.partition(".")[0] and floor(target) < floor(module)
    }
    assert climbing == set()


@pytest.mark.slow
def test_no_imports_go_in_circles() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {("b", "c")}
    assert circles(import_graph()) == set()


def test_the_kernel_names_its_guests_in_one_place() -> None:
    """Strings that name another house, or a module of it, stand in the catalog's list of packages alone."""
    guest = re.compile(rf"({'|'.join(PACKAGES[1:])})(\.\w+)*")
    named = [
        (module_of(path), node.value)
        for path in FILES
        if module_of(path).partition(".")[0] == "lab"
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and guest.fullmatch(node.value)
    ]
    assert named == [("lab.catalog", package) for package in PACKAGES[1:]]


@pytest.mark.slow
def test_private_names_stay_in_their_module() -> None:
    for path in FILES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in PACKAGES:
                for alias in node.names:
                    assert not re.match(r"_[^_]", alias.name), f"{path.relative_to(ROOT)}:{node.lineno}"


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `code`."""
    show = "import sys; print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.slow
def test_importing_the_lab_loads_neither_ray_nor_wandb() -> None:
    every = [str(path.relative_to(ROOT).with_suffix("")).replace("/", ".") for path in FILES]
    ours = [name.removesuffix(".__init__") for name in every if not name.startswith("cluster")]
    loaded = loaded_by("\n".join(f"import {name}" for name in ["lab", "agents", "generative", *ours]))
    assert "torch" in loaded
    assert loaded & {"ray", "wandb", "torchvision", "datasets"} == set()


def test_import_lab_alone_is_light() -> None:
    assert loaded_by("import lab, agents, generative") & {"torch", "lightning", "numpy", "pydantic", "ray"} == set()


@pytest.mark.parametrize("words", [["--help"], ["--version"], []])
def test_help_is_quick_and_loads_nothing_heavy(words: list[str]) -> None:
    code = f"from lab.cli import main\ntry:\n    main({words!r})\nexcept SystemExit:\n    pass"
    assert loaded_by(code) & {"torch", "lightning", "numpy", "pydantic", "ray", "wandb", "rich"} == set()


def test_lab_help_answers_at_once() -> None:
    """Under 0.3 s on a quiet machine (benchmarks/start_up.py measures it); here the best of five, generously."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lab.cli", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    assert min(times) < 1.0


def test_listing_recipes_does_not_import_torch() -> None:
    code = "from lab.cli import main\nmain(['list'])"
    assert loaded_by(code) & {"torch", "lightning", "ray", "wandb"} == set()
