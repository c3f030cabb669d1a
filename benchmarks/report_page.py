"""The report of 200 runs of 10,000 points: seconds to write it, its size, seconds until a browser has drawn it.

Runs are synthetic, in the real format: 40 groups of 5 seeds, 10 metrics. The browser is a headless Chromium; opening
is measured from the navigation to the first drawn learning curve, without which the figure is not measured.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from form import Benchmark

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "lab" / "compare"))
from browser import MISSING, Browser

RUNS, POINTS, METRICS, SEEDS = 200, 10_000, 10, 5
_DRAWN = (
    "const c = document.querySelector('.chart'); if (!c?.data?.length) return 0;"
    "return new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now()), 0)))"
)


def write_runs(root: Path, num_runs: int, num_points: int) -> None:
    """Run directories with `num_points` rows of metrics each."""
    from lab.runs import Run

    generator = np.random.default_rng(0)
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
        curve = 500 * gamma * (1 - np.exp(-steps / steps[-1] * 4)) + generator.normal(0, 20, num_points)
        noise = generator.normal(size=(num_points, METRICS - 1))
        with (path / "metrics.jsonl").open("w") as file:
            for k in range(num_points):
                row = {"env_steps": int(steps[k]), "seconds": 0.01 * k, "eval/return": round(curve[k], 3)}
                row |= {f"losses/part_{m}": round(noise[k, m], 4) for m in range(METRICS - 1)}
                file.write(json.dumps(row) + "\n")
        Run(path).write_result(
            {
                "format": 1,
                "recipe": "dqn/cartpole",
                "status": "completed",
                "seed": seed,
                "counter": "env_steps",
                "env_steps": int(steps[-1]),
                "seconds": 0.01 * num_points,
                "monitor": {"metric": "eval/return", "mode": "max"},
            }
        )


def main() -> None:
    bench = Benchmark("report_page", __doc__)
    num_runs, num_points = (50, 2_000) if bench.quick else (RUNS, POINTS)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "runs").mkdir()
        write_runs(root / "runs", num_runs, num_points)

        from lab.compare import records, summary
        from lab.compare.page import write_page
        from lab.runs import find

        started = time.perf_counter()
        read = [records.read(run) for run in find([str(root / "runs")])]
        write_page(summary.sections(read), root / "report.html", "200 runs")
        written = time.perf_counter() - started
        size = (root / "report.html").stat().st_size / 1e6
        opened = open_seconds(root / "report.html", 3 if bench.quick else 7) if MISSING is None else None
    figures = {"write_seconds": written, "report_mb": size, "open_seconds": opened}
    bench.finish(figures, {"report_mb": 30, "open_seconds": 2}, {"runs": num_runs, "points": num_points})


def open_seconds(page: Path, repeats: int) -> float:
    """The median of seconds from navigation to the first drawn chart."""
    times = []
    for _ in range(repeats):
        browser = Browser()
        try:
            browser.open(page.as_uri())
            times.append(browser.until(_DRAWN, seconds=60) / 1000)
        finally:
            browser.close()
    return statistics.median(times)


if __name__ == "__main__":
    main()
