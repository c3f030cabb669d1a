"""The measurements for a GPU, tried on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow
Call = Callable[..., int]


@pytest.fixture
def gpu(benchmarks: None) -> ModuleType:
    import gpu  # type: ignore[import-not-found]

    return gpu  # type: ignore[no-any-return]


@pytest.fixture
def call(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Call:
    """`benchmarks/gpu.py` on this CPU, quickly."""

    def call(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--quick", *map(str, words)])
        code: int = gpu.main()
        return code

    return call


def items(folder: Path, part: str) -> dict[str, dict[str, object]]:
    """What the file of a part holds."""
    (path,) = folder.glob(f"gpu-{part}-cpu-*.json")
    found: dict[str, dict[str, object]] = json.loads(path.read_text())["items"]
    return found


def test_a_call_goes_on_where_the_last_one_ended(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["correctness/channels-last", "correctness/halves"]
    assert call("--out", tmp_path, "--only", names[0], "--minutes", 0.1) == 0
    assert items(tmp_path, "correctness")["channels-last"]["status"] == "skipped"
    for done, skipped in ((1, 1), (0, 1)):  # what was skipped is tried again
        assert call("--out", tmp_path, "--only", *names) == 0
        assert f"{done} done, 0 failed, {skipped} skipped" in capsys.readouterr().out
    found = items(tmp_path, "correctness")
    assert found["channels-last"]["status"] == "done"
    assert found["channels-last"]["figures"]["features_distance"] < 1e-5  # type: ignore[index]
    assert found["halves"] == found["halves"] | {"status": "skipped", "reason": "a CPU's memory is not shared out"}


def test_what_fails_is_told_and_the_next_begins(
    gpu: ModuleType, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, whole = gpu.Item("correctness:trains", ("no/recipe",)), gpu.Item("correctness:channels_last")
    monkeypatch.setattr(gpu, "parts", lambda: {"correctness": [broken, whole]})
    assert call("--out", tmp_path) == 1
    told = capsys.readouterr().out
    assert "correctness trains-no-recipe: failed: KeyError: 'no/recipe'" in told
    assert "1 done, 1 failed, 0 skipped" in told
    assert [found["status"] for found in items(tmp_path, "correctness").values()] == ["failed", "done"]


def test_names_are_checked_and_listed(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        call("--only", "speed/nothing")
    assert "--only speed/nothing: valid names are correctness, speed" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        call("--list")
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert len(names) == len(set(names)) > 40


def test_it_passes_from_beginning_to_end(gpu: ModuleType, tmp_path: Path) -> None:
    """In a process of its own, on whatever is installed; without data sets."""
    script = Path(gpu.__file__ or "")
    environment = {name: value for name, value in os.environ.items() if name != "LAB_DATA"}
    command = [sys.executable, str(script), "--device", "cpu", "--quick", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=1200)
    assert ended.returncode == 0, ended.stdout
    status = {part: {name: item["status"] for name, item in items(tmp_path, part).items()} for part in gpu.parts()}
    assert {each for part in status.values() for each in part.values()} == {"done", "skipped"}
    assert status["correctness"]["halves"] == "skipped"
    assert status["correctness"]["resumes-dqn-cartpole"] == "done"
    assert status["speed"]["ppo-64"] == "done"
    assert status["learning"]["learns-gan-stacked-mnist"] == "skipped"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"items": {"x": {}}}', '{"items": []}'])
def test_a_file_that_holds_no_results_is_told(call: Call, content: str, tmp_path: Path) -> None:
    assert call("--out", tmp_path, "--minutes", 0, "--only", "speed") == 0
    (path,) = tmp_path.glob("gpu-speed-*.json")
    path.write_text(content)
    with pytest.raises(SystemExit, match="holds no results of this script"):
        call("--out", tmp_path, "--minutes", 0, "--only", "speed")
    assert path.read_text() == content


@pytest.mark.parametrize("words", [("--minutes", "nan"), ("--minutes", "-1"), ("--out", "/dev/null")])
def test_bad_options_end_in_a_sentence(call: Call, words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        call(*words)
    assert words[0] in capsys.readouterr().err
