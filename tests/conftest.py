"""What all tests share: folders of their own, no tracking, one thread, the lab command in this process, one cluster.

Processes side by side (pytest-xdist, `--dist=loadgroup`) each take whole files, so that what a file's tests share is
made once; tests that start Ray are two groups, each with a cluster: they wait for processes half of their time, and
the other tests fill the gaps. Files with slow tests come first.

A test is slow, and has the mark, when it takes more than `SLOW_SECONDS` of a core or starts Ray; what takes so long
without the mark is named after the tests. `make check` leaves out what is slow.
"""

from __future__ import annotations

import os
import resource
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

SLOW_SECONDS = 1.0


@pytest.hookimpl(tryfirst=True)  # before marks choose the tests, and before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow_tests: Counter[str] = Counter()
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()) and item.get_closest_marker("cluster") is None:
            item.add_marker("cluster")
        starts_ray = item.get_closest_marker("cluster") is not None
        if starts_ray and item.get_closest_marker("slow") is None:
            item.add_marker("slow")
        group = str(item.path)
        if starts_ray:
            group = "sweeps" if "sweep" in item.path.parts else "clusters"
        item.add_marker(pytest.mark.xdist_group(group))
        slow_tests[group] += item.get_closest_marker("slow") is not None
    slow_tests["sweeps"] = slow_tests["clusters"] = len(items)
    items.sort(key=lambda item: -slow_tests[_group(item)])


def _group(item: pytest.Item) -> str:
    mark = item.get_closest_marker("xdist_group")
    assert mark is not None
    return str(mark.args[0])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _measured(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _measured(item))


def _measured(item: pytest.Item) -> Generator[None, Any, Any]:
    """Note on the item the seconds of a core that it takes, in processes that it waits for too."""
    before = _core_seconds()
    try:
        return (yield)
    finally:
        item.user_properties.append(("core_seconds", _core_seconds() - before))


def _core_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that are slow and do not say so."""
    seconds = {
        report.nodeid.partition("@")[0]: sum(value for name, value in report.user_properties if name == "core_seconds")
        for report in terminalreporter.stats.get("passed", ())
        if "slow" not in report.keywords
    }
    slow = {name: value for name, value in seconds.items() if value > SLOW_SECONDS}
    if slow:
        terminalreporter.section(f"more than {SLOW_SECONDS:g} s of a core; mark them with pytest.mark.slow")
        for name in sorted(slow, key=slow.__getitem__, reverse=True):
            terminalreporter.line(f"{slow[name]:5.1f} s  {name}")


class Finished(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs, data and tracking of a test touch nothing outside its own folder."""
    from lab import catalog

    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LAB_CACHE", str(session_folder(tmp_path_factory) / "cache"))  # filling it takes seconds
    monkeypatch.delenv("LAB_DATA", raising=False)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setattr(catalog, "_allowed", set())


def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def _short_films() -> Iterator[None]:
    """Every agent that completes its run draws and encodes a film: of 20 frames here."""
    from agents.algorithms.agent import Agent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Agent, "film_frames", 20)
        yield


@pytest.fixture
def lab(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """`lab("train", "dqn/cartpole", ...)` in this process; SystemExit of argparse counts as its exit code."""
    from lab.cli import main

    def run(*words: object) -> Finished:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A private cluster of two CPUs for all tests that need one; its workers inherit this environment."""
    from cluster.session.session import session

    os.environ["WANDB_MODE"] = "disabled"
    recipes = str(Path(__file__).parent / "cluster")
    os.environ["PYTHONPATH"] = os.pathsep.join([recipes, os.environ.get("PYTHONPATH", "")])
    with session(num_cpus=2) as started:
        yield started
