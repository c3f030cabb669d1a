"""Installed packages add commands, recipes, backbones, data sets and kinds by entry points, imported only when used."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import catalog, plugins
from lab.config.overrides import resolve
from lab.config.words import candidates
from lab.errors import UserError
from lab.ranks import shares

Lab = Callable[..., Any]

COMMAND = '''"""lab maze: draw a maze.

It says more here.
"""

EXAMPLE = "lab maze --size 3"


def add_arguments(parser):
    parser.add_argument("--size", type=int, default=2, help="rows")


def run(arguments):
    print("#" * arguments.size)
    return 0
'''
NETS = '''"""A backbone."""

from torch import nn

import lab


@lab.register("maze_net", example_shape=(1, 4, 4))
def maze_net(input_shape, *, width: int = 8) -> nn.Module:
    """A net for mazes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], width), nn.ReLU())
'''
MAZES = '''"""A data kind: mazes, registered by name or read from a file."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import PositiveInt

from lab.data.datasets import DataSet, load_named
from lab.data.image_arrays import ImageArrays
from lab.data.images import ImageData, ImageModule
from lab.experiment import DataConfig, Shared
from lab.registry import Registry

MAZES: Registry[DataSet[ImageArrays]] = Registry("register_mazes", "maze set", "datasets")


def register_mazes(name: str) -> Callable[[DataSet[ImageArrays]], DataSet[ImageArrays]]:
    """Register a function `root -> ImageArrays`."""
    return MAZES.register(name)


class MazeData(DataConfig):
    """Mazes with or without a way through."""

    kind: Literal["mazes"] = "mazes"
    name: str = "small-mazes"
    root: str | None = None
    batch_size: Annotated[PositiveInt, Shared("equal")] = 20

    def build(self, seed: int) -> ImageModule:
        arrays = load_named(MAZES, self.name, self.root, read)
        return ImageModule(ImageData(name=self.name, batch_size=self.batch_size, batches_per_step=5), arrays, seed)


def read(path: Path) -> ImageArrays:
    images = np.load(path)
    labels = np.arange(len(images)) % 2
    return ImageArrays((images, labels), (images, labels))


@register_mazes("small-mazes")
def small_mazes(root: Path) -> ImageArrays:
    """Two hundred mazes of 4x4."""
    labels = np.arange(200) % 2
    images = np.zeros((200, 4, 4), np.uint8)
    images[labels == 0, ::2] = 255
    images[labels == 1, :, ::2] = 255
    return ImageArrays((images, labels), (images[:50], labels[:50]))
'''
RECIPES = '''"""Recipes for mazes."""

import lab
from lab.supervised.supervised import SupervisedConfig
from maze_lab.mazes import MazeData


def small() -> lab.Experiment:
    """Tell whether a small maze has a way through."""
    return lab.Experiment(
        name="maze/small",
        data=MazeData(),
        module=SupervisedConfig(backbone=lab.BackboneConfig("maze_net", width=16)),
        trainer=lab.TrainerConfig(budget=4000, eval_period=2000, num_threads=1),
        tracking=lab.TrackingConfig(mode="disabled"),
    )
'''
ENTRY_POINTS = """\
[console_scripts]
maze = maze_lab.script:main

[lab.commands]
# a module each
maze = maze_lab.commands.maze

[lab.plugins]
maze = maze_lab
"""


def install(folder: Path, entry_points: str = ENTRY_POINTS, name: str = "maze_lab") -> None:
    """What an installer leaves of a package's metadata."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_registries: None) -> Iterator[Path]:
    """A folder of installed packages with `maze_lab` in it."""
    folder = tmp_path / "site"
    for path, content in {
        "__init__.py": '"""Mazes."""\n',
        "nets.py": NETS,
        "mazes.py": MAZES,
        "recipes/__init__.py": "",
        "recipes/maze.py": RECIPES,
        "commands/__init__.py": "",
        "commands/maze.py": COMMAND,
    }.items():
        file = folder / "maze_lab" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    install(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "maze_lab"]:
        del sys.modules[name]


def test_nothing_is_imported_before_it_is_used(site: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from lab.cli import main\n"
        "main(['list'])\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "main(['completion', '--words', 'train', 'maze/'])\n"
        "assert not {'maze_lab', 'torch', 'pydantic'} & {name.partition('.')[0] for name in sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = dict(line.strip().split(maxsplit=1) for line in done.stdout.splitlines() if len(line.split()) > 1)
    assert lines["maze/small"] == "Tell whether a small maze has a way through."
    assert lines["maze_net"] == "A net for mazes."
    assert lines["small-mazes"] == "Two hundred mazes of 4x4."
    assert lines["maze"] == "draw a maze"
    assert done.stdout.splitlines()[-1] == "maze/small"


def test_a_command(site: Path, lab: Lab) -> None:
    assert (lab("maze", "--size", 3).out, list(catalog.commands())[-1]) == ("###\n", "maze")
    shown = lab("maze", "--help").out
    assert "Draw a maze." in shown
    assert "example: lab maze --size 3" in shown


@pytest.mark.slow
def test_a_recipe_trains_and_its_run_is_read_without_asking(site: Path, lab: Lab, tmp_path: Path) -> None:
    """An installed plugin's names count as registered: a file may name them."""
    done = lab("train", "maze/small", "--quiet", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    evaluated = lab("evaluate", tmp_path / "run", "--json")
    assert yaml.safe_load(evaluated.out)["metrics"]["eval/accuracy"] == 1.0
    catalog.check_allowed("maze_lab.envs", "environment", "maze_lab.envs:Maze-v0")
    with pytest.raises(UserError, match="--import other_lab"):
        catalog.check_allowed("other_lab", "environment", "other_lab:Maze-v0")


@pytest.mark.slow
def test_without_the_package_the_run_is_refused(site: Path, lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(lab("show", "maze/small").out, encoding="utf-8")
    assert lab("show", path, "module.backbone.width=3").code == 0
    sys.path.remove(str(site))
    code = f"import sys; from lab.cli import main; sys.exit(main(['show', {str(path)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, "DataConfig kind 'mazes'" in done.stderr) == (2, True)


def test_a_data_kind_is_one_file(site: Path, lab: Lab, tmp_path: Path) -> None:
    """What lists, completes, finds, reads, refuses and divides it follows from that file."""
    import numpy as np

    assert "small-mazes" in lab("list", "datasets").out
    assert candidates(["train", "maze/small", "data.name=small"]) == ["data.name=small-mazes"]
    assert "data.batch_size=" in candidates(["train", "maze/small", "data."])
    experiment = resolve("classifier/digits-cnn", ["data.kind=mazes", "data.name=small-mazes", "data.batch_size=10"])
    assert len(next(iter(experiment.data.build(0).next_chunk())).x) == 10
    assert shares.share(experiment, 2).data.batch_size == 5  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"data\.batch_size=10 cannot be divided"):
        shares.share(experiment, 3)
    np.save(tmp_path / "mine.npy", np.zeros((40, 6, 6), np.uint8))
    mine = resolve("maze/small", ["data.name=mine.npy", f"data.root={tmp_path}"])
    assert mine.data.build(0).spec.inputs.shape == (1, 6, 6)
    with pytest.raises(UserError, match=r"unknown maze set \(or path\) 'small-maze'\. Did you mean 'small-mazes'"):
        resolve("maze/small", ["data.name=small-maze"]).data.build(0)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("nets.py", NETS.replace("maze_net", "mlp"), "@register 'mlp' of maze_lab.nets is taken"),
        ("recipes/classifier.py", RECIPES.replace("small", "digits_cnn"), "recipe 'classifier/digits-cnn' of maze_lab"),
    ],
)
def test_a_taken_name_is_refused(site: Path, lab: Lab, file: str, content: str, sentence: str) -> None:
    (site / "maze_lab" / file).write_text(content, encoding="utf-8")
    catalog._scan.cache_clear()
    refused = lab("list")
    catalog._scan.cache_clear()
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert sentence in refused.err


@pytest.mark.parametrize(
    ("entry_points", "sentence"),
    [
        ("[lab.commands]\ntrain = other.train\n", "command 'train' of package 'other' is taken: lab.commands.train"),
        ("[lab.plugins]\nother = other:thing\n", "entry point 'other = other:thing' of lab.plugins must name a module"),
        (
            "[lab.commands]\nbad name = other\n",
            "entry point 'bad name = other' of lab.commands has no name of one word",
        ),
    ],
)
def test_a_wrong_entry_point_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lab: Lab, entry_points: str, sentence: str
) -> None:
    install(tmp_path, entry_points, "other")
    monkeypatch.syspath_prepend(str(tmp_path))
    refused = lab("list")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert sentence in refused.err
    assert lab("--help").code == 2


def test_what_is_left_of_a_removed_package_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    install(tmp_path, "[lab.commands]\ngone = gone.go\n\n[lab.plugins]\ngone = gone\n", "gone")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._packages.cache_clear()
    assert "(package gone lacks gone.go)" in lab("--help").out
    with caplog.at_level(logging.WARNING, "lab"):
        assert lab("list").code == 0
    assert "package 'gone' lacks gone, which its entry point 'gone' names" in caplog.text
    assert lab("gone").code == 2


@pytest.mark.parametrize(
    ("file", "content", "words", "sentence"),
    [
        ("__init__.py", "raise RuntimeError('boom')", ["train", "maze/small"], "package 'maze-lab': maze_lab.recipes"),
        ("commands/maze.py", "x = 1 +\n", ["maze"], "(SyntaxError: invalid syntax"),
        ("commands/maze.py", "import nowhere_at_all\n", ["maze"], "(ModuleNotFoundError: No module named 'nowhere"),
        ("commands/maze.py", "x = 1\n", ["maze"], "maze_lab.commands.maze has no functions add_arguments and run"),
    ],
)
def test_a_broken_plugin_is_named(
    site: Path, lab: Lab, file: str, content: str, words: list[str], sentence: str
) -> None:
    (site / "maze_lab" / file).write_text(content, encoding="utf-8")
    for cached in (catalog._scan, catalog._commands):
        cached.cache_clear()
    assert lab("--help").code == 0
    refused = lab(*words)
    for cached in (catalog._scan, catalog._commands):
        cached.cache_clear()
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert sentence in refused.err


def test_a_plugins_module_that_cannot_be_parsed_is_left_out(
    site: Path, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    (site / "maze_lab" / "nets.py").write_text(NETS + "\nx = 1 +\n", encoding="utf-8")
    catalog._scan.cache_clear()
    with caplog.at_level(logging.WARNING, "lab"):
        listed = lab("list")
    catalog._scan.cache_clear()
    assert listed.code == 0
    assert "maze_lab.nets is left out: invalid syntax" in caplog.text
    assert "maze/small" in listed.out


def test_entry_points_are_those_that_importlib_reads(site: Path) -> None:
    """A second distribution of the same name, further down the path, does not count."""
    from importlib.metadata import entry_points

    install(site / "below", "[lab.plugins]\nold = old_maze\n")
    sys.path.append(str(site / "below"))
    try:
        for group in (plugins.COMMANDS, plugins.PACKAGES):
            ours = {(entry.name, entry.module) for entry in plugins.entry_points(group)}
            assert ours == {(entry.name, entry.value) for entry in entry_points(group=group)}
            assert ours
    finally:
        sys.path.remove(str(site / "below"))
