"""Which part may know which: cluster -> agents -> lab <- generative, and what importing the lab loads."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("lab", "agents", "generative", "cluster")
MAY_IMPORT = {"lab": set(), "agents": {"lab"}, "generative": {"lab"}, "cluster": {"lab", "agents"}}
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


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

    yield from visit(ast.parse(path.read_text(encoding="utf-8")))


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
