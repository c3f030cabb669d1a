"""The report of 200 runs of 10,000 points: seconds to write it, its size, seconds until a browser has drawn it.

Runs are synthetic, in the real format: 40 groups of 5 seeds, 10 metrics. The browser is a headless Chromium. From the
navigation on it is measured when the first learning curve is on the screen (`open_seconds`), and when that curve can be
hovered over and zoomed into (`interactive_seconds`); without a browser neither is.
"""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from form import Benchmark

sys.path.append(str(Path(__file__).resolve().parent.parent))
from tests.lab.comparison.browser import MISSING, Browser

RUNS, POINTS, METRICS, SEEDS = 200, 10_000, 10, 5
_WATCH = """
window.times = {};
const note = (name) => requestAnimationFrame(() => setTimeout(() => { window.times[name] ??= performance.now(); }));
const watcher = new MutationObserver(() => {
  const chart = document.querySelector('.chart');
  if (chart?.querySelector('path[d*="L"]')) note('drawn');
  if (!chart?.data?.length || !chart.querySelector('.scatterlayer .trace path')) return;
  note('interactive');
  watcher.disconnect();
});
watcher.observe(document, { childList: true, subtree: true });
"""
_TIMES = "return window.times.interactive ? window.times : null"


def write_runs(root: Path, num_runs: int, num_points: int) -> None:
    """Run directories with `num_points` rows of metrics each."""
    from lab.runs.directory import FORMAT, Run

    generator = np.random.default_rng(0)
    noise: list[str] = []
    steps = np.arange(1, num_points + 1) * 100
    for index in range(num_runs):
        gamma, seed = round(0.5 + 0.01 * (index // SEEDS), 3), index % SEEDS
        path = root / f"run-{index:03d}"
        path.mkdir()
        tree = {
            "name": "dqn/cartpole",
            "data": {"kind": "replay", "env": "CartPole-v1"},
            "module": {"kind": "dqn", "gamma": gamma},
            "trainer": {"budget": int(steps[-1])},
            "tracking": {"mode": "disabled"},
            "seed": seed,
        }
        (path / "experiment.yaml").write_text(yaml.safe_dump(tree))
        if seed == 0:  # the same noise for a group's seeds: making it is what takes long
            noise = _noise(generator, num_points)
        curve = 500 * gamma * (1 - np.exp(-steps / steps[-1] * 4)) + generator.normal(0, 20, num_points)
        with (path / "metrics.jsonl").open("w") as file:
            for k, rest in enumerate(noise):
                file.write(
                    f'{{"env_steps": {steps[k]}, "seconds": {k / 100}, "eval/return": {curve[k]:.3f}, {rest}}}\n'
                )
        Run(path).write_result(
            {
                "format": FORMAT,
                "recipe": "dqn/cartpole",
                "status": "completed",
                "seed": seed,
                "counter": "env_steps",
                "env_steps": int(steps[-1]),
                "seconds": 0.01 * num_points,
                "monitor": {"metric": "eval/return", "mode": "max"},
            }
        )


def _noise(generator: np.random.Generator, num_points: int) -> list[str]:
    """The losses of a run, row by row, as the inside of a JSON object."""
    text = io.StringIO()
    row = ", ".join(f'"losses/part_{m}": %.4f' for m in range(METRICS - 1))
    np.savetxt(text, generator.normal(size=(num_points, METRICS - 1)), row)
    return text.getvalue().splitlines()


def main() -> None:
    bench = Benchmark("report_page", __doc__)
    num_runs, num_points = (50, 2_000) if bench.quick else (RUNS, POINTS)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "runs").mkdir()
        write_runs(root / "runs", num_runs, num_points)

        from lab.comparison import records, summary
        from lab.comparison.page.html import write_page
        from lab.runs.directory import find

        started = time.perf_counter()
        read = [records.read(run) for run in find([str(root / "runs")])]
        write_page(summary.sections(read), root / "report.html", "200 runs")
        written = time.perf_counter() - started
        size = (root / "report.html").stat().st_size / 1e6
        opened = open_seconds(root / "report.html", 3 if bench.quick else 7) if MISSING is None else (None, None)
    figures = {"write_seconds": written, "report_mb": size}
    figures |= dict(zip(("open_seconds", "interactive_seconds"), opened, strict=True))
    bench.finish(figures, {"report_mb": 30, "open_seconds": 2}, {"runs": num_runs, "points": num_points})


def open_seconds(page: Path, repeats: int) -> tuple[float, float]:
    """Medians of seconds from navigation to the first drawn chart, and to the first that can be zoomed into."""
    times = []
    for _ in range(repeats):
        browser = Browser()
        try:
            browser.devtools("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
            browser.open(page.as_uri())
            found = browser.until(_TIMES, seconds=60)
            times.append((found["drawn"] / 1000, found["interactive"] / 1000))
        finally:
            browser.close()
    drawn, interactive = zip(*times, strict=True)
    return statistics.median(drawn), statistics.median(interactive)


if __name__ == "__main__":
    main()
