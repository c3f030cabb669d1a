"""Runs killed at random moments: none lost, none differing from one that was left alone, no row twice or missing.

    python benchmarks/reliability/kill.py [--kills 200] [--seed 0] [--quick]

Each scenario is trained once undisturbed. Then it is begun, and at a moment drawn anew each time (in its first second,
in the middle, in a write) its process gets SIGKILL, SIGTERM, or Ctrl-C twice; `lab resume` goes on, is killed again,
and so on, until it has come to its end. Its metrics and last weights must then be those of the undisturbed run, bit for
bit, and the offline W&B parts must hold every row once.

bare          every family, by `lab train` and `lab resume`
pipelined     PPO with two remote collectors, one rollout ahead
two-workers   a VAE trained by two processes
sweep         four runs, whose driver is killed
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parent.parent))
from form import Benchmark

_LAB = [sys.executable, "-m", "lab.cli"]
_COMMON = ["tracking.mode=offline", "trainer.num_threads=1", "trainer.checkpoint_seconds=0.5", "trainer.film=false"]
_REMOTE = ["data.collector.kind=remote", "data.collector.num=2", "data.collector.num_cpus=0.5"]
_SHORT_START = 12.0
"""seconds in which a process has certainly begun to train"""


class Scenario(NamedTuple):
    """What is trained, and in how much steps or samples."""

    name: str
    words: list[str]
    sweep: bool = False


def budget(amount: int, evaluations: int = 5) -> list[str]:
    """A budget, and periods that follow from it."""
    period = max(1, amount // evaluations)
    return [f"trainer.budget={amount}", f"trainer.eval_period={period}", f"trainer.log_period={max(1, amount // 40)}"]


SCENARIOS = (
    Scenario("dqn", ["dqn/cartpole", *budget(12_000)]),
    Scenario("ppo", ["ppo/cartpole", *budget(40_000)]),
    Scenario("pg", ["pg/cartpole", *budget(40_000)]),
    Scenario("impala", ["impala/cartpole", *budget(40_000)]),
    Scenario("recurrent-q", ["recurrent-q/cartpole-positions", "data.learning_starts=500", *budget(3_000)]),
    Scenario("q-learning", ["q-learning/frozen-lake", *budget(40_000)]),
    Scenario("classifier", ["classifier/digits-cnn", *budget(60_000)]),
    Scenario("lm", ["lm/reference-gru", *budget(60_000)]),
    Scenario("vae", ["vae/digits", *budget(60_000)]),
    Scenario("gan", ["gan/digits", *budget(20_000)]),
    Scenario("pixelcnn", ["pixelcnn/digits", *budget(8_000)]),
    Scenario("vq-vae", ["vq-vae/digits", *budget(20_000)]),
    Scenario("pipelined", ["ppo/cartpole", *_REMOTE, "data.collector.mode=pipelined", *budget(30_000)]),
    Scenario("two-workers", ["vae/digits", "trainer.num_workers=2", *budget(60_000)]),
    Scenario("sweep", ["classifier/digits-cnn", "--seeds", "4", *budget(30_000)], sweep=True),
)
_QUICK = ("dqn", "vae", "pipelined", "sweep")


def command(scenario: Scenario, out: Path) -> list[str]:
    """What begins or goes on with a scenario in `out`."""
    if (out / "experiment.yaml").is_file() or (out / "sweep.yaml").is_file():
        return [*_LAB, "resume", str(out), "--quiet"]
    if scenario.sweep:
        return [*_LAB, "sweep", *scenario.words, *_COMMON, "--quiet", "--out", str(out)]
    return [*_LAB, "train", *scenario.words, *_COMMON, "--quiet", "--out", str(out)]


def start(scenario: Scenario, out: Path, log: Path) -> subprocess.Popen[bytes]:
    """Begin or go on."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command(scenario, out), stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
        )


def kill(process: subprocess.Popen[bytes], how: str) -> float:
    """End a process in one of the ways; what a signal asks for is waited for. The seconds that it took."""
    began = time.monotonic()
    if how == "kill":
        process.kill()
    elif how == "term":
        process.send_signal(signal.SIGTERM)
    else:
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    try:
        process.wait(120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"it did not end within two minutes of {how}") from None
    return time.monotonic() - began


def runs_of(scenario: Scenario, out: Path) -> list[Path]:
    """Its run directories, in order."""
    return sorted(path for path in (out / "runs").iterdir()) if scenario.sweep else [out]


def differences(scenario: Scenario, out: Path, reference: Path) -> list[str]:
    """What is another than in the undisturbed run."""
    import torch

    from lab.runs import checkpoint
    from lab.runs.directory import Run
    from lab.runs.wandb_files import num_rows_held

    found = []
    runs = (runs_of(scenario, out), runs_of(scenario, reference))
    for path, undisturbed in zip(*runs, strict=True):
        one, other = Run(path), Run(undisturbed)
        rows, wanted = ([_timeless(row) for row in run.metrics()] for run in (one, other))
        counts = {row[one.result()["counter"]] for row in wanted}
        rows = [row for row in rows if row[one.result()["counter"]] in counts]  # others were written as it was stopped
        if rows != wanted:
            at = next((i for i, (a, b) in enumerate(zip(rows, wanted, strict=False)) if a != b), "length")
            found.append(f"{path.name}: row {at} differs ({len(rows)} rows, {len(wanted)} undisturbed)")
        states = [checkpoint.load(run.last)["state_dict"] for run in (one, other)]
        if any(not torch.equal(states[0][name], states[1][name]) for name in states[1]):
            found.append(f"{path.name}: weights differ")
        held = num_rows_held(path)
        if held != len(one.metrics()):
            found.append(f"{path.name}: W&B holds {held} of {len(one.metrics())} rows")
        if one.result()["status"] != "completed":
            found.append(f"{path.name}: {one.result()['status']}")
        if list(path.rglob(".*.tmp")):
            found.append(f"{path.name}: temporary files are left")
    return found


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if "second" not in key and "restarts" not in key}


def disturbed(
    scenario: Scenario, out: Path, generator: random.Random, most: int, log: Path, seconds: float
) -> tuple[list[str], list[str]]:
    """Kill it again and again, at most so often, until it has come to its end; the kills, and what went wrong."""
    kills: list[str] = []
    while True:
        process = start(scenario, out, log)
        if len(kills) < most:
            moment = generator.choice((generator.uniform(0, 1), generator.uniform(2, _SHORT_START + seconds)))
            try:
                code = process.wait(moment)
            except subprocess.TimeoutExpired:
                how = generator.choice(("kill", "kill", "term", "int"))
                kills.append(f"{how}@{moment:.1f}")
                took = kill(process, how)
                if how == "term":
                    kills[-1] += f" in {took:.1f} s"
                continue
        else:
            code = process.wait(600)
        if code == 0:
            return kills, []
        return kills, [f"exit code {code}: {log.read_text(errors='replace')[-400:]}"]


def main() -> None:
    def options(parser: Any) -> None:
        parser.add_argument("--kills", type=int, help="how many in all, about (default: 200; 12 with --quick)")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--only", nargs="+", metavar="SCENARIO")

    bench = Benchmark("reliability_kill", __doc__, options)
    wanted = bench.options.only or (_QUICK if bench.quick else [scenario.name for scenario in SCENARIOS])
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in wanted]
    share = -(-(bench.options.kills or (12 if bench.quick else 200)) // len(scenarios))
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "OMP_NUM_THREADS": "1"}
    kills, faults, details = 0, 0, {}
    slowest = 0.0
    root = Path(tempfile.mkdtemp(prefix="lab-kill-"))
    for scenario in scenarios:
        reference, generator = (
            root / scenario.name / "undisturbed",
            random.Random(f"{bench.options.seed} {scenario.name}"),
        )
        reference.parent.mkdir()
        began = time.monotonic()
        code = start(scenario, reference, root / scenario.name / "undisturbed.txt").wait(900)
        assert code == 0, (root / scenario.name / "undisturbed.txt").read_text()
        seconds = max(1.0, time.monotonic() - began - _SHORT_START / 2)
        done, wrong, number = [], [], 0
        while len(done) < share and number < 4 * share:
            out, number = root / scenario.name / str(number), number + 1
            killed, problems = disturbed(
                scenario, out, generator, min(6, share - len(done)), out.with_suffix(".txt"), seconds
            )
            problems += [] if problems else differences(scenario, out, reference)
            done += killed
            wrong += [f"{', '.join(killed)}: {problem}" for problem in problems]
            if not problems:
                shutil.rmtree(out)
        stops = [float(text.split()[-2]) for text in done if text.startswith("term")]
        slowest = max([slowest, *stops])
        print(
            f"{scenario.name}: {len(done)} kills, {len(wrong)} faults, SIGTERM {max(stops, default=0):.1f} s at most",
            *wrong,
            sep="\n  ",
            flush=True,
        )
        kills, faults = kills + len(done), faults + len(wrong)
        details[scenario.name] = {"kills": done, "faults": wrong}
    if not faults:
        shutil.rmtree(root)
    figures = {"kills": kills, "kill_faults": faults, "slowest_sigterm_seconds": round(slowest, 1)}
    bench.finish(figures, {"kill_faults": 0, "slowest_sigterm_seconds": 5}, details)


if __name__ == "__main__":
    main()
