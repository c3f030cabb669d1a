"""How long the lab takes before it trains, and what Lightning costs while it does.

Imports, `--help`, `list`, an evaluation, a game and a sample in fresh processes, and seconds from `lab train` to the
first finished training step. The yardstick is a process that imports torch and makes one `torch.optim.Adam`, which
imports torch's compiler: a first step comes after at most 1.3 times that and half a second, `beyond_the_bound` says by
how much it misses. What is imported until then, and what it costs, is a table.

Then the CPU time of one training step under the lab's trainer beside the same step in a bare loop (the peer), on one
thread. CPU time, since waiting for a core that others use would be several times what is measured; steps are CPU-bound.
A ratio below 1 is what the trainer costs.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from form import Benchmark, measure, measure_pairs, run_json
from rich.console import Console
from rich.table import Table

FIRST_UPDATE = """
import json, sys, time
began = float(sys.argv[1])
from lab.cli import main
from lab.lightning import Callback
import lab.training.train as t
class First(Exception): pass
class Watch(Callback):
    def on_train_batch_end(self, *arguments):
        raise First
inner = t.train
import lab.commands.train
def watched(experiment, **options):
    return inner(experiment, callbacks=[Watch()], **options)
t.train = watched
try:
    main([*sys.argv[2:], "--debug"])
except First:
    pass
print(json.dumps({"seconds": time.time() - began}))
"""

TORCH_AND_ADAM = "import torch; torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])"

STEPS = """
import json, sys, tempfile, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from lab.config.overrides import resolve
from lab.training.train import seed_everything, train
which, steps, per_step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
batch = 64
experiment = resolve("classifier/digits-cnn", [
    "module.backbone.name=mlp", f"data.batches_per_step={per_step}", f"data.batch_size={batch}",
    f"trainer.budget={steps * per_step * batch}", f"trainer.eval_period={10**9}", "trainer.num_threads=1",
    "trainer.device=cpu", "trainer.checkpoint_seconds=100000", "tracking.mode=disabled"])
if which == "lab":
    times = []
    from lab.lightning import Callback
    class Clock(Callback):
        def on_train_batch_end(self, *arguments):
            times.append(time.process_time())
    with tempfile.TemporaryDirectory() as folder:
        train(experiment, run_dir=Path(folder) / "run", callbacks=[Clock()])
    times = times[:-1]  # the last step evaluates and saves
else:
    seed_everything(0)
    data = experiment.data.build(0)
    module = experiment.module.build(data.spec)
    module.set_engine(experiment.trainer.engine)
    times = []
    for step in range(steps):
        module.set_progress(step / steps)
        module.training_step(data.next_chunk())
        times.append(time.process_time())
tail = times[len(times) // 10:]
print(json.dumps({"seconds": (tail[-1] - tail[0]) / (len(tail) - 1)}))
"""


def process_seconds(*words: str) -> float:
    """How long a fresh Python process with these arguments takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], capture_output=True, check=True)
    return time.perf_counter() - began


def first_update_words(recipe: str, folder: str) -> list[str]:
    """A command line of `lab train`."""
    return ["train", recipe, "tracking.mode=disabled", "--quiet", "--out", str(Path(folder) / "run")]


def first_update_seconds(recipe: str) -> float:
    """From the start of `lab train` to the end of its first training step."""
    with tempfile.TemporaryDirectory() as folder:
        return float(
            run_json(sys.executable, FIRST_UPDATE, time.time(), *first_update_words(recipe, folder))["seconds"]
        )


def import_costs(recipe: str) -> dict[str, float]:
    """Milliseconds that each package's own modules take to import, until the first training step; dearest first."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["-X", "importtime", "-c", FIRST_UPDATE, str(time.time()), *first_update_words(recipe, folder)]
        told = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stderr
    costs: Counter[str] = Counter()
    for own, module in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", told, re.MULTILINE):
        parts = module.split(".")
        costs[".".join(parts[:2]) if parts[0] == "torch" else parts[0]] += int(own)
    return {name: cost / 1000 for name, cost in costs.most_common(25)}


def main() -> None:
    bench = Benchmark("start_up", __doc__)
    repeats = 2 if bench.quick else 7
    figures: dict[str, float | None] = {
        "interpreter_seconds": measure(lambda: process_seconds("-c", "pass"), repeats),
        "import_lab_seconds": measure(lambda: process_seconds("-c", "import lab, agents, generative"), repeats),
        "import_train_seconds": measure(lambda: process_seconds("-c", "import lab.training.train"), repeats),
        "help_seconds": measure(lambda: process_seconds("-m", "lab.cli", "--help"), repeats),
        "list_seconds": measure(lambda: process_seconds("-m", "lab.cli", "list"), repeats),
    }
    for recipe in ("classifier/digits-cnn", "dqn/cartpole", "vae/digits"):
        name = recipe.replace("/", "_").replace("-", "_")
        pairs = measure_pairs(
            lambda recipe=recipe: first_update_seconds(recipe),
            lambda: process_seconds("-c", TORCH_AND_ADAM),
            repeats,
            higher_is_better=False,
        )
        beyond = [lab - 1.3 * bare - 0.5 for lab, bare in zip(pairs.lab_values, pairs.peer_values, strict=True)]
        figures |= {"torch_and_adam_seconds": pairs.peer, f"first_update_{name}_seconds": pairs.lab}
        figures[f"first_update_{name}_beyond_the_bound_seconds"] = statistics.median(beyond)
    with tempfile.TemporaryDirectory() as folder:
        words = ["trainer.budget=2000", "trainer.film=false", *first_update_words("dqn/cartpole", folder)[2:]]
        subprocess.run([sys.executable, "-m", "lab.cli", "train", "dqn/cartpole", *words], check=True)
        for command in ("evaluate", "play"):
            call = partial(process_seconds, "-m", "lab.cli", command, f"{folder}/run", "--episodes", "1")
            figures[f"{command}_one_episode_seconds"] = measure(call, repeats)
    costs = import_costs("dqn/cartpole")
    table = Table("package", "ms", title="imported until the first step of dqn/cartpole (with the profiler's own time)")
    for package, cost in costs.items():
        table.add_row(package, f"{cost:.0f}")
    Console().print(table)

    steps = 150 if bench.quick else 1000
    raw = {}
    for per_step, name in ((1, "one_batch"), (50, "many_batches")):
        count = max(30, steps // per_step * (1 if per_step == 1 else 5))
        pairs = measure_pairs(
            lambda count=count, per_step=per_step: run_json(sys.executable, STEPS, "lab", count, per_step)["seconds"],
            lambda count=count, per_step=per_step: run_json(sys.executable, STEPS, "bare", count, per_step)["seconds"],
            5 if bench.quick else 11,
            higher_is_better=False,
        )
        extra = [lab - bare for lab, bare in zip(pairs.lab_values, pairs.peer_values, strict=True)]
        figures[f"step_of_{name}_vs_bare_loop_ratio"] = pairs.ratio
        figures[f"overhead_of_a_step_of_{name}_microseconds"] = 1e6 * statistics.median(extra)
        raw[name] = pairs._asdict()
    targets = {"help_seconds": 0.3, "step_of_many_batches_vs_bare_loop_ratio": 0.95}
    targets |= {name: 0.0 for name in figures if name.endswith("_beyond_the_bound_seconds")}
    bench.finish(figures, targets, {"step_seconds": raw, "import_milliseconds": costs})


if __name__ == "__main__":
    main()
