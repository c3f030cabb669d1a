"""The live board: what it serves, to whom, and that an open page follows the runs."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from lab.comparison.page import server as page_server
from lab.comparison.page.follow import Follower
from lab.errors import UserError
from tests.lab.comparison.browser import MISSING, Browser
from tests.lab.comparison.synthetic import make_run


@pytest.fixture
def served(tmp_path) -> Iterator[tuple[str, page_server.Board]]:
    board = page_server.Board([tmp_path / "runs"], metric=None, at="last", threshold=None)
    server = page_server.serve(board, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", board
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(page_server, "_SCAN_SECONDS", 0.0)


def get(url, host=None):
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status, answer.read()


def code_of(url, host=None):
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(url, host)
    return caught.value.code


def add_rows(run, *rows):
    with run.metrics_path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_a_follower_reads_only_what_is_new(tmp_path):
    run = make_run(tmp_path, values=[1.0, 2.0], points=2)
    follower = Follower([tmp_path])
    assert follower.update()
    assert not follower.update()
    add_rows(run, {"env_steps": 60_000, "seconds": 60, "eval/return": 3.0})
    with run.metrics_path.open("a") as file:
        file.write('{"env_steps": 70000, "secon')  # a row that is being written
    assert follower.update()
    assert follower.records()[0].curves["eval/return"].values.tolist() == [1, 2, 3]
    with run.metrics_path.open("a") as file:
        file.write('ds": 70, "eval/return": 4.0}\n')
    assert follower.update()
    assert follower.records()[0].curves["eval/return"].values.tolist() == [1, 2, 3, 4]


def test_a_follower_sees_a_run_cut_back_and_grown_again(tmp_path):
    run = make_run(tmp_path, values=[1.0, 2.0, 3.0], points=3)
    follower = Follower([tmp_path])
    follower.update()
    lines = run.metrics_path.read_text().splitlines(keepends=True)
    run.metrics_path.write_text("".join(lines[:2]))
    add_rows(run, *({"env_steps": 20_000 + k, "seconds": 99, "eval/return": 7.0} for k in range(20)))
    follower.update()
    assert follower.records()[0].curves["eval/return"].values.tolist() == [1.0] + [7.0] * 20


def test_a_follower_forgets_deleted_and_skips_damaged_runs(tmp_path):
    keep, gone = make_run(tmp_path, seed=0), make_run(tmp_path, seed=1)
    broken = make_run(tmp_path, seed=2)
    (broken.path / "result.json").write_text("{")
    follower = Follower([tmp_path])
    follower.update()
    assert [run.seed for run in follower.records()] == [0, 1]
    for path in sorted(gone.path.rglob("*"), reverse=True):
        path.unlink()
    gone.path.rmdir()
    assert follower.update()
    assert [run.path for run in follower.records()] == [keep.path]


def test_data_change_only_when_runs_do(served, tmp_path):
    address, _ = served
    run = make_run(tmp_path / "runs")
    status, body = get(f"{address}/data?version=")
    data = json.loads(body)
    assert (status, len(data["runs"])) == (200, 1)
    assert get(f"{address}/data?version={data['version']}")[0] == 204
    add_rows(run, {"env_steps": 60_000, "seconds": 60, "eval/return": 999.0})
    status, body = get(f"{address}/data?version={data['version']}")
    assert (status, json.loads(body)["sections"][0]["groups"][0]["row"]["best"]) == (200, 999)


def test_curves_of_the_groups_that_are_asked_for(served, tmp_path):
    address, _ = served
    for gamma in (0.9, 0.99):
        for seed in range(2):
            make_run(tmp_path / "runs", seed=seed, fields={"module.gamma": gamma})
    get(f"{address}/data?version=")
    curves = json.loads(get(f"{address}/curves?section=0&metric=eval/return&groups=1")[1])
    assert list(curves["bands"]) == ["1"]
    assert len(curves["runs"]) == 2
    assert code_of(f"{address}/curves?section=7&metric=eval/return&groups=1") == 404


def test_layers_of_the_run_that_is_asked_for(served, tmp_path):
    address, _ = served
    run = make_run(tmp_path / "runs")
    add_rows(run, {"env_steps": 60_000, "seconds": 60, "histograms": {"weights/a": [0.0, 1.0, [1, 3]]}})
    (name,) = json.loads(get(f"{address}/data?version=")[1])["runs"]
    layers = json.loads(get(f"{address}/layers?run={quote(name)}")[1])
    assert layers["weights/a"]["steps"] == [60_000]
    assert code_of(f"{address}/layers?run=elsewhere") == 404


def test_only_files_of_runs_and_only_for_this_machine(served, tmp_path):
    address, _ = served
    make_run(tmp_path / "runs", gif="episode.gif")
    (tmp_path / "runs" / "secret.txt").write_text("secret")
    get(f"{address}/data?version=")
    assert b"experiment.yaml" in get(f"{address}/runs/0/")[1]
    assert get(f"{address}/runs/0/media/episode.gif")[1].startswith(b"GIF8")
    assert b"dqn/cartpole" in get(f"{address}/runs/0/experiment.yaml")[1]
    assert code_of(f"{address}/runs/0/..%2Fsecret.txt") == 404
    assert code_of(f"{address}/runs/0/%2E%2E/secret.txt") == 404
    assert code_of(f"{address}/runs/0//etc/passwd") == 404
    assert code_of(f"{address}/runs/9/") == 404
    assert code_of(f"{address}/data", host="elsewhere.example:80") == 403


def test_a_taken_port_is_named(served, tmp_path):
    address, board = served
    with pytest.raises(UserError, match="cannot be used"):
        page_server.serve(board, int(address.rpartition(":")[2]))


def test_a_folder_that_is_not_there(lab):
    assert lab("board", "/nowhere").code == 2


@pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
def test_an_open_page_follows(served, tmp_path):
    address, _ = served
    browser = Browser()
    try:
        browser.open(address)
        browser.until("return document.body.innerText.includes('There are no runs yet')")
        run = make_run(tmp_path / "runs", status="running", pictures={"samples": 2})
        points = "const c = document.querySelector('.chart'); return c?.data?.length && c.data[0].x.length"
        before = browser.until(points)
        add_rows(run, {"env_steps": 60_000, "seconds": 60, "eval/return": 999.0})
        browser.until(points.replace("return c?", f"return c?.data?.[0].x.length === {before + 1} && c?"))
        browser.until("return document.querySelector('figure img').naturalWidth === 66")
        assert browser.run("return document.querySelectorAll('section').length") == 1
        assert browser.errors() == []
        assert all(url.startswith(address) for url in browser.asked_for())
    finally:
        browser.close()
