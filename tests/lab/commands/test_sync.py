"""What a real W&B client uploads for a run that was interrupted and resumed, recorded by a server of our own."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lab.runs.directory import Run
from lab.runs.uploads import pending
from lab.runs.wandb_files import num_rows_held
from tests.lab.comparison.fake_wandb import KEY, FakeWandb
from tests.lab.comparison.synthetic import make_run


@pytest.fixture
def service(monkeypatch, tmp_path) -> Iterator[FakeWandb]:
    fake = FakeWandb()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", fake.url)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    yield fake
    fake.close()


@pytest.mark.slow
def test_a_resumed_run_arrives_once_and_whole(service, lab, tmp_path):
    path = tmp_path / "run"
    small = ("trainer.log_period=640", "trainer.eval_period=3200", "trainer.num_threads=1", "tracking.mode=offline")
    recipe = ("classifier/digits-cnn", "trainer.budget=3200", *small)
    assert lab("train", *recipe, "--quiet", "--out", path).code == 0
    assert lab("resume", path, "trainer.budget=6400", "--quiet").code == 0
    run = Run.open(path)
    assert len(pending(run)) == 2

    assert "uploaded (2 parts)" in lab("sync", path).out
    (uploaded,) = service.runs.values()
    rows = run.metrics()
    sent = [uploaded.history[line] for line in sorted(uploaded.history)]
    assert uploaded.lines_sent == len(sent) == len(rows)
    assert [row["_step"] for row in sent] == list(range(len(rows)))
    for there, here in zip(sent, rows, strict=True):
        assert {key: there[key] for key in here if "/" in key} == pytest.approx(
            {key: value for key, value in here.items() if "/" in key}
        )
        assert there["samples"] == here["samples"]
    assert uploaded.group == "classifier/digits-cnn"
    assert uploaded.name == path.name
    assert uploaded.config["module"]["value"]["optimizer"]["lr"] == 2e-3

    before = uploaded.lines_sent
    assert "nothing to upload" in lab("sync", path).out
    assert uploaded.lines_sent == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "settings", "kind", "suffix"),
    [
        ("vae/digits", ["trainer.budget=2560", "trainer.eval_period=1280", "module.eval_samples=2"], "image", ".png"),
        ("pg/cartpole", ["trainer.budget=512", "data.num_envs=4", "data.rounds=1"], "video", ".mp4"),
    ],
)
def test_pictures_and_films_arrive_with_their_rows(service, lab, tmp_path, recipe, settings, kind, suffix):
    path = tmp_path / "run"
    common = ("tracking.mode=offline", "trainer.num_threads=1", "--quiet", "--out", path)
    assert lab("train", recipe, *settings, *common).code == 0
    assert "uploaded" in lab("sync", path).out
    (uploaded,) = service.runs.values()
    kept = {(row["samples" if kind == "image" else "env_steps"], name): file
            for row in Run.open(path).metrics()
            for name, file in row.get("pictures" if kind == "image" else "films", {}).items()}  # fmt: skip
    assert len(kept) >= (2 if kind == "image" else 1)
    arrived = 0
    for row in uploaded.history.values():
        for key, value in row.items():
            if isinstance(value, dict) and value.get("_type") == f"{kind}-file":
                count = row["samples" if kind == "image" else "env_steps"]
                source = path / kept[count, key.partition("/")[2]]
                assert uploaded.files[value["path"]] == source.read_bytes()
                arrived += 1
    assert arrived == len(kept)
    assert sum(name.endswith(suffix) for name in uploaded.files) == len(kept)


@pytest.mark.slow
def test_what_was_uploaded_is_compared_as_what_lies_here(service, lab, tmp_path):
    """The real client reads the runs back: groups, seeds and figures are those of the directories."""
    small = ("trainer.log_period=640", "trainer.eval_period=640", "trainer.num_threads=1", "tracking.mode=offline")
    for lr in ("1e-3", "1e-2"):
        for seed in range(2):
            words = ("trainer.budget=1280", f"seed={seed}", f"module.optimizer.lr={lr}", "tracking.group=together")
            out = ("--quiet", "--out", tmp_path / "runs" / f"{lr}-{seed}")
            assert lab("train", "classifier/digits-cnn", *words, *small, *out).code == 0
    make_run(tmp_path / "other", "dqn/cartpole")  # of another group, never uploaded
    assert lab("sync", tmp_path / "runs").code == 0
    here = json.loads(lab("compare", tmp_path / "runs", "--json").out)
    done = lab("compare", "wandb:me/lab/together", "--json")
    assert done.code == 0, done.err
    there = json.loads(done.out)
    for ours, theirs in zip(here["sections"][0]["groups"], there["sections"][0]["groups"], strict=True):
        assert theirs["label"] == ours["label"]
        assert sorted(theirs["values"]) == pytest.approx(sorted(ours["values"]))
        assert sorted(run["seed"] for run in theirs["runs"]) == [0, 1]
        assert theirs["steps"] == ours["steps"]
    assert len(there["sections"][0]["groups"]) == 2
    nobody = lab("compare", "wandb:me/lab/nobody")
    assert (nobody.code, "no runs" in nobody.err) == (2, True)


def test_without_a_key_it_says_what_to_do(lab, tmp_path, monkeypatch):
    make_run(tmp_path / "runs")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    done = lab("sync", tmp_path / "runs")
    assert (done.code, "wandb login" in done.err) == (2, True)


def test_a_run_that_goes_on_is_left_alone(service, lab, tmp_path):
    run = make_run(tmp_path / "runs", status="running")
    run.lock()
    try:
        assert "left for later" in lab("sync", tmp_path / "runs").out
    finally:
        run.unlock()
    assert "nothing to upload" in lab("sync", tmp_path / "runs").out


@pytest.mark.slow
def test_a_failed_upload_can_be_repeated(service, lab, tmp_path, monkeypatch):
    monkeypatch.setattr("lab.runs.uploads.complete", lambda run: None)  # it would set aside what is no part
    run = make_run(tmp_path / "runs")
    fragment = run.path / "wandb" / "offline-run-20260101_000000-abcdefgh"
    fragment.mkdir(parents=True)
    (fragment / "run-abcdefgh.wandb").write_bytes(b"no run")
    done = lab("sync", tmp_path / "runs")
    assert (done.code, "could not be uploaded" in done.err) == (1, True)
    assert pending(run) == [fragment]


@pytest.mark.slow
@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("lost", [0.3, 0.7, 0.999])
def test_rows_that_a_killed_client_had_not_written_arrive_too(service, lab, tmp_path, resumed, lost):
    """What is on disk of a part is less than was handed over: the file is cut, as a kill leaves it."""
    path = tmp_path / "run"
    small = ("trainer.log_period=64", "trainer.eval_period=3200", "trainer.num_threads=1", "tracking.mode=offline")
    assert lab("train", "classifier/digits-cnn", "trainer.budget=3200", *small, "--quiet", "--out", path).code == 0
    (file,) = path.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    before = num_rows_held(path)
    file.write_bytes(content[: int(len(content) * (1 - lost))])
    held = num_rows_held(path)
    assert held is not None
    assert held < before == len(Run.open(path).metrics())
    if resumed:
        assert lab("resume", path, "trainer.budget=4480", "--quiet").code == 0
    assert "uploaded" in lab("sync", path).out
    (uploaded,) = service.runs.values()
    rows = Run.open(path).metrics()
    sent = [uploaded.history[line] for line in sorted(uploaded.history)]
    assert [row["_step"] for row in sent] == list(range(len(rows)))
    assert [row["samples"] for row in sent] == [row["samples"] for row in rows]
    assert uploaded.lines_sent == len(rows)
    assert "nothing to upload" in lab("sync", path).out
