"""The documentation is true: it builds without a warning, links lead somewhere, code runs, commands parse."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from lab import catalog
from lab.cli import Parser
from lab.config.overrides import override, resolve

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?:\]\(|src=\")([^)\"\s]+)")


def blocks(language: str) -> list[Any]:
    """Code blocks of a language, with the page and a number."""
    return [
        pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, (found, code) in enumerate(FENCE.findall(page.read_text(encoding="utf-8")))
        if found == language
    ]


def command_lines() -> list[Any]:
    """Every `lab COMMAND ...` of a block or an indented line."""
    found = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fenced = [
            line for language, code in FENCE.findall(text) if language in ("", "bash") for line in code.splitlines()
        ]
        indented = [line.strip() for line in FENCE.sub("", text).splitlines() if line.startswith("    lab ")]
        for line in [*fenced, *indented]:
            words = line.partition(" # ")[0].partition(" > ")[0].strip()
            if re.match(r"lab \w+", words) and words.split()[1] in catalog.commands():
                found[words] = pytest.param(words, id=f"{page.name}: {words}")
    return list(found.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith(("http", "#", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the recipes in them train."""
    from lab.comparison import records
    from lab.experiment import Experiment
    from lab.runs.directory import Run
    from lab.training.train import train
    from tests.lab.comparison.synthetic import make_run

    for seed in range(2):
        make_run(tmp_path / "runs" / "sweep-1", "dqn/cartpole", seed)
    package = tmp_path / "documented"
    package.mkdir()
    (package / "__init__.py").write_text("")
    name = f"documented_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    catalog.allow_import(name)
    module = importlib.import_module(name)
    made = [value for value in vars(module).values() if getattr(value, "__module__", "") == name and callable(value)]
    for function in made:
        if "Experiment" in str(getattr(function, "__annotations__", {}).get("return", "")):
            experiment = override(function(), ["tracking.mode=disabled", "trainer.max_seconds=1"])
            assert isinstance(experiment, Experiment)
            result = train(experiment, run_dir=tmp_path / "run")
            assert records.read(Run.open(result.run.path)).curves


@pytest.mark.parametrize("line", command_lines())
def test_commands_parse_and_name_what_there_is(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, command, *words = shlex.split(line)
    monkeypatch.setitem(sys.modules, "mypkg", importlib.import_module("agents"))
    parser = Parser(prog="lab", allow_abbrev=False)
    importlib.import_module(catalog.commands()[command].module).add_arguments(parser)
    whole = any(action.nargs == "..." for action in parser._actions)
    if any("..." in word for word in words):
        words = [word.replace("-...", "") for word in words if word != "..."]
    parsed = parser.parse_args(words) if whole else parser.parse_intermixed_args(words)
    targets = {"train": [getattr(parsed, "target", None)], "show": [getattr(parsed, "target", None)]}.get(command, [])
    for target in targets:
        if target and "/" in target and not target.startswith("runs/"):
            plain = [
                item
                for item in parsed.overrides
                if not item.startswith(
                    (
                        *("data.env=my_envs", "data.kind=boards", "data.name=empty"),
                        *("module.backbone.name=wide", "module.backbone.name=timm:", "module.task.kind=quantiles"),
                    )
                )
            ]
            resolve(target, plain)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_lists_every_option(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    page = unescape((tmp_path / "site" / "cli" / "index.html").read_text(encoding="utf-8"))
    for name, command in catalog.commands().items():
        assert f"lab {name}" in page
        parser = Parser(add_help=False)
        importlib.import_module(command.module).add_arguments(parser)
        for action in parser._actions:
            for option in action.option_strings:
                assert option in page, (name, option)
    families = (tmp_path / "site" / "families" / "dqn" / "index.html").read_text(encoding="utf-8")
    assert "dqn/cartpole-rainbow" in families
    assert "<!--" not in families.partition("<article")[2].partition("</article")[0]
    for picture in (ROOT / "benchmarks" / "results").glob("dqn_*.png"):
        assert (tmp_path / "site" / "results" / picture.name).read_bytes() == picture.read_bytes()
        assert f'src="../../results/{picture.name}"' in families
    every = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html"))
    assert not re.search(r'(?:src|rel="stylesheet" href)="https?://', every)  # nothing is fetched from elsewhere
