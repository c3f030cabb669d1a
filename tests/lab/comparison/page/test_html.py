"""The page in a real browser: it draws, filters, toggles, and asks nobody for anything."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lab.comparison import records, summary
from lab.comparison.page.html import write_page
from lab.runs.directory import find
from tests.lab.comparison.browser import MISSING, Browser
from tests.lab.comparison.synthetic import make_demo, make_run

pytestmark = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")

TRACES = "return document.querySelector('#section-0 .chart').data?.length ?? 0"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    made = Browser()
    yield made
    made.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    make_demo(folder / "runs")
    read = [records.read(run) for run in find([str(folder / "runs")])]
    write_page(summary.sections(read, threshold=300), folder / "report.html", "Four & <six>")
    return folder / "report.html"


@pytest.fixture
def opened(browser, page):
    browser.emulate(1280, 1000)
    browser.open(page.as_uri())
    browser.until(TRACES)
    return browser


def test_it_draws_without_errors_or_requests(opened, page):
    assert opened.run("return document.title") == "Four & <six>"
    assert opened.run("return document.querySelectorAll('section').length") == 2
    assert opened.run(TRACES) == 8  # four groups, a band and a line each
    assert opened.run("return document.querySelectorAll('#section-0 .chart .scatterlayer .trace').length") >= 8
    for _ in range(12):  # down the page, so that everything is drawn once
        opened.run("scrollBy(0, 500)")
        opened.until(
            "return [...document.querySelectorAll('.chart')].filter(c => { const r = "
            "c.getBoundingClientRect(); return r.top < innerHeight && r.bottom > 0 && !c.data }).length === 0"
        )
    assert opened.run("return [...document.querySelectorAll('.chart')].filter(c => c.data).length") == 10
    assert opened.errors() == []
    assert {url.partition("#")[0] for url in opened.asked_for()} <= {page.as_uri()}


def test_a_chart_is_sketched_before_plotly_is_there(browser, page):
    """What is on the screen while plotly.js starts: the same lines, drawn at once."""
    browser.devtools("Page.enable")
    stop = "Object.defineProperty(window, 'Plotly', { get: () => undefined, set: () => {}, configurable: true })"
    added = browser.devtools("Page.addScriptToEvaluateOnNewDocument", source=stop)
    try:
        browser.emulate(1280, 1000)
        browser.open(page.as_uri())
        browser.until("return document.querySelector('#section-0 .sketch')?.querySelectorAll('path').length === 8")
        parts = "return [...document.querySelector('#section-0 .sketch').querySelectorAll(arguments[0])]"
        words = browser.run(f"{parts}.map(t => t.textContent)", "text")
        assert "environment steps" in words
        assert {"0", "200", "400", "10k", "50k"} <= set(words)
        inside = (
            ".every(p => { const r = p.getBoundingClientRect(), c = p.ownerSVGElement.getBoundingClientRect();"
            "return r.left >= c.left && r.right <= c.right + 1 && r.top >= c.top && r.bottom <= c.bottom })"
        )
        assert browser.run(parts + inside, "path")
        assert browser.errors() == []
    finally:
        browser.devtools("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])


def test_curves_that_have_come_in_half_are_waited_for(browser, page):
    """A page is drawn while the rest of it is still on its way."""
    content = page.read_bytes()
    middle = content.index(b'id="curves-0-1"') + 200

    class InTwoParts(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content[:middle])
            self.wfile.flush()
            time.sleep(1.5)
            self.wfile.write(content[middle:])

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), InTwoParts) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            browser.emulate(1280, 1000)
            browser.open(f"http://127.0.0.1:{server.server_port}/")
            browser.until(TRACES)
            assert [error for error in browser.errors() if "favicon" not in error] == []
        finally:
            server.shutdown()


def test_the_policy_forbids_requests(opened):
    """Even code in the page could not send anything."""
    opened.errors()
    opened.run("window.sent = null; fetch('http://127.0.0.1:9/').then(() => { sent = true }, () => { sent = false })")
    assert opened.until("return window.sent === false")
    assert any("Content Security Policy" in message for message in opened.errors())


def test_wall_time_and_each_run(opened):
    opened.click("[data-choice='seconds']")
    title = "return document.querySelector('#section-0 .chart').layout.xaxis.title.text"
    assert opened.until(title) == "seconds of training"
    opened.click("[data-choice='runs']")
    opened.until(TRACES.replace("?.length ?? 0", ".length === 16"))
    opened.click("[data-choice='steps']")
    assert opened.until(title) == "environment steps"
    assert opened.errors() == []


def test_a_group_can_be_switched_off(opened):
    opened.click("#section-0 .label input")
    opened.until(TRACES.replace("?.length ?? 0", ".length === 6"))
    assert opened.run("return document.querySelectorAll('#section-0 tr.off').length") == 1
    opened.click("#section-0 .label input")
    opened.until(TRACES.replace("?.length ?? 0", ".length === 8"))


def test_the_filter_leaves_what_matches(opened):
    opened.type("#filter", "gamma=0.97")
    opened.until(TRACES.replace("?.length ?? 0", ".length === 2"))
    labels = "return [...document.querySelectorAll('#section-0 .label')].map(l => l.innerText.replace(/\\s+/g, ' '))"
    assert opened.run(labels) == ["dqn/cartpole gamma 0.97"]
    assert opened.run("return document.getElementById('section-1').classList.contains('hidden')")
    assert opened.run("return document.querySelectorAll('#section-0 a').length") == 4


def test_metrics_can_be_filtered(opened):
    opened.type("#section-0 details input[type=search]", "part_1")
    opened.until("return document.querySelector('#section-0 .many').querySelectorAll('.chart').length === 1")
    system = "return [...document.querySelectorAll('#section-0 details:last-of-type h3')].map(h => h.textContent)"
    assert opened.run(system) == ["system/cpu_cores"]


def test_the_slider_moves_through_the_steps(opened):
    opened.run("document.querySelector('#section-1 .media').scrollIntoView()")
    step = "return document.querySelector('#section-1 figcaption span').textContent"
    source = "return document.querySelector('#section-1 figure img').src"
    assert opened.run(step) == "50,000"
    last = opened.run(source)
    opened.run(
        "const slider = document.querySelector('#section-1 input[type=range]');"
        "slider.value = 0; slider.dispatchEvent(new Event('input'))"
    )
    assert opened.run(step) == "2,500"
    assert opened.run(source) != last
    assert (
        opened.until("const i = document.querySelector('#section-1 figure img'); return i.complete && i.naturalWidth")
        == 66
    )


def test_differences_and_all_fields(opened):
    rows = "return document.querySelectorAll('#section-0 .fields tbody tr').length"
    differing = opened.run(rows)
    assert opened.run("return document.querySelector('#section-0 td.differs').innerText") == "dqn"
    opened.click("#section-0 .bar button")
    assert opened.run(rows) > differing


def test_links_lead_to_the_run_folders(opened, page):
    link = opened.run("return document.querySelector('#section-0 details a').href")
    assert link.startswith((page.parent / "runs").as_uri())


def test_dark_and_light_follow_the_system(opened):
    background = "return getComputedStyle(document.body).backgroundColor"
    light = opened.run(background)
    opened.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    dark = opened.until(f"const c = (() => {{ {background} }})(); return c !== arguments[0] && c", light)
    assert max(map(int, re.findall(r"\d+", dark)[:3])) < 60
    opened.devtools("Emulation.setEmulatedMedia", features=[])


def test_a_phone_needs_no_sideways_scrolling(opened, page):
    opened.emulate(390, 844, 2.0)
    opened.open(page.as_uri())
    opened.until(TRACES)
    assert opened.run("return document.documentElement.scrollWidth") == 390
    assert opened.errors() == []


def test_hostile_names_stay_text(browser, tmp_path):
    evil = '</script><img src=x onerror="window.evil=1">'
    make_run(tmp_path / "runs", "dqn/cartpole", fields={"module.note": evil, "name": evil})
    run = find([str(tmp_path / "runs")])[0]
    run.write_result(run.result() | {"recipe": evil, "status": evil})
    write_page(summary.sections([records.read(run)]), tmp_path / "r.html", evil)
    browser.open((tmp_path / "r.html").as_uri())
    browser.until(TRACES)
    assert browser.run("return window.evil") is None
    assert browser.run("return document.querySelector('.label').innerText").strip() == evil
    assert browser.errors() == []


def test_data_are_json_in_the_page(page):
    text = page.read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert len(data["runs"]) == 18
    assert data["sections"][0]["threshold"] == 300


def test_on_a_phone_the_value_is_on_the_screen(browser, page):
    browser.emulate(390, 844)
    browser.open(page.as_uri())
    values = "[...document.querySelectorAll('.summary td:nth-child(4) .value')]"
    ends = f"return {values}.map(v => v.getBoundingClientRect().right)"
    assert 0 < max(browser.until(ends)) < 390


def test_several_sections_have_an_overview(opened):
    rows = "return [...document.querySelectorAll('#overview tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    first, second = opened.run(rows)
    assert first[:4] == ["CartPole-v1", "eval/return", "4", "16"]
    assert first[4] == "dqn/cartpole gamma=0.99"
    assert second[0] == "digits"
    assert opened.run("return document.querySelector('#overview a').getAttribute('href')") == "#section-0"


def test_constant_metrics_are_told_and_not_drawn(opened):
    assert "Constant: system/cpu_cores 1." in opened.run("return document.querySelector('#section-1').textContent")
    names = "return [...document.querySelectorAll('#section-1 .many h3')].map(h => h.textContent)"
    assert "system/cpu_cores" not in opened.run(names)


def test_a_log_scale_of_negative_values_stays_linear_and_says_so(browser, tmp_path):
    for seed in range(2):
        make_run(tmp_path, seed=seed, values=[-3.0, -2.0, -1.0])
    write_page(summary.sections([records.read(run) for run in find([str(tmp_path)])]), tmp_path / "page.html", "x")
    browser.emulate(1280, 1000)
    browser.open((tmp_path / "page.html").as_uri())
    browser.until(TRACES)
    browser.run("[...document.querySelectorAll('header button')].find(b => b.textContent === 'log scale').click()")
    look = "return document.querySelector('#section-0 .chart').layout.yaxis.type"
    assert browser.until(look) == "linear"
    assert "linear: there are values of 0 and below" in browser.run(
        "return document.querySelector('#section-0 .chart').textContent"
    )


EVIL = "<img src=x onerror='window.evil=1'>"


def with_layers(folder, seed=0):
    """A run with a table of classes, and histograms that move upwards."""
    run = make_run(folder, "classifier/digits", seed=seed, counter="samples", metric="eval/accuracy")
    classes = {EVIL: {"precision": 0.25, "recall": 0.5, "f1": 1 / 3}, "cat": {"precision": 1.0, "recall": 1.0, "f1": 1}}
    rows = [
        {
            "samples": 10 * i,
            "seconds": float(i),
            "classes": classes,
            "histograms": {
                f"weights/{EVIL}": [float(i), i + 1.0, [1, 2, 1]],
                "gradients/head": [-1.0, 1.0, [1, 1]],
            },
        }
        for i in range(4)
    ]
    with run.metrics_path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return run


@pytest.mark.parametrize("width", [1280, 390])
def test_classes_and_layers_are_on_the_page(browser, tmp_path, width):
    for seed in range(2):
        with_layers(tmp_path / "runs", seed)
    read = [records.read(run) for run in find([str(tmp_path / "runs")])]
    write_page(summary.sections(read), tmp_path / "r.html", "Layers")
    browser.emulate(width, 1000)
    browser.open((tmp_path / "r.html").as_uri())
    browser.until(TRACES)
    cells = "return [...document.querySelectorAll('.classes td')].map(cell => cell.textContent)"
    assert browser.run(cells) == [EVIL, "0.25", "0.5", "0.333", "cat", "1", "1", "1"]
    assert browser.run("return document.querySelectorAll('.classes option').length") == 2
    figures = "return [...document.querySelectorAll('.layers figcaption b')].map(each => each.textContent)"
    assert browser.until(figures) == [EVIL]
    darkest = (
        "const c = document.querySelector('.layers canvas');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
        "return [...Array(c.width).keys()].map(x => [...Array(c.height).keys()]"
        ".reduce((best, y) => d.data[4 * (y * c.width + x) + 3] > d.data[4 * (best * c.width + x) + 3] ? y : best, 0))"
    )
    rows = browser.run(darkest)
    assert len(rows) == 4
    assert rows == sorted(rows, reverse=True)  # upwards on the screen
    assert rows[0] > 30 > 10 > rows[-1]
    browser.run("[...document.querySelectorAll('.layers button')].find(b => b.textContent === 'gradients').click()")
    assert browser.until(f"const names = (() => {{ {figures} }})(); return names[0] === 'head' && names") == ["head"]
    assert browser.run("return document.documentElement.scrollWidth") == width
    assert browser.run("return window.evil") is None
    assert browser.errors() == []
