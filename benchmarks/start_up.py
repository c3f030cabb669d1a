"""How long the lab takes before it trains, and what Lightning costs while it does.

Imports, `--help` and `list` in fresh processes; seconds from `lab train` to the first finished training step; and the
CPU time of one training step under the lab's trainer beside the same step in a bare loop (the peer), on one thread.
CPU time, since waiting for a core that others use would be several times what is measured; steps are CPU-bound.
A ratio below 1 is what the trainer costs.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from form import Benchmark, measure, measure_pairs, run_json

FIRST_UPDATE = """
import json, sys, time
began = float(sys.argv[1])
from lab.cli import main
from lightning.pytorch import Callback
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
    from lightning.pytorch import Callback
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


def first_update_seconds(recipe: str) -> float:
    """From the start of `lab train` to the end of its first training step."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "run")
        words = ["train", recipe, "tracking.mode=disabled", "--quiet", "--out", out]
        return float(run_json(sys.executable, FIRST_UPDATE, time.time(), *words)["seconds"])


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
        figures[f"first_update_{name}_seconds"] = measure(lambda recipe=recipe: first_update_seconds(recipe), repeats)

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
    bench.finish(figures, targets, {"step_seconds": raw})


if __name__ == "__main__":
    main()
