"""How far does a recipe learn on this device in some minutes?"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from on_device.common import Setting, Skipped
from on_device.correctness import needs_atari

from lab.config.overrides import resolve
from lab.errors import UserError
from lab.training.train import train

_QUICK = {
    "ppo/pong": ("data.num_envs=4", "data.num_steps=8", "module.minibatch_size=16"),
    "dqn/pong": ("data.learning_starts=200", "data.replay.capacity=2000"),
    "pixelcnn/binarized-mnist-gated": ("data.batches_per_step=1", "module.backbone.channels=8"),
    "gan/stacked-mnist": ("data.batches_per_step=1", "module.eval_images=100"),
}


def learns(setting: Setting, recipe: str, *overrides: str) -> dict[str, Any]:
    """A recipe for so many seconds, evaluated on its way; its curve, its best evaluation, its speed."""
    needs_atari(recipe)
    overrides = (*overrides, *(_QUICK.get(recipe, ()) if setting.quick else ()))
    experiment = resolve(recipe, overrides)
    words = ["tracking.mode=disabled", "trainer.film=false", f"trainer.device={setting.device}", *overrides]
    words += [
        f"trainer.max_seconds={setting.seconds}",
        f"trainer.eval_period={max(1, experiment.trainer.budget // 40)}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        try:
            ended = train(resolve(recipe, words), run_dir=Path(folder) / "run")
        except UserError as error:
            raise Skipped(str(error)) from None
        rows, result = ended.run.metrics(), ended.run.result()
    counter = result["counter"]
    metric = result["best"]["metric"]
    curve = [(row[counter], round(row["seconds"], 1), round(row[metric], 4)) for row in rows if metric in row]
    figures = {f"best {metric}": float(result["best"]["value"]), counter: float(result[counter])}
    return figures | {"training_seconds": float(result["seconds"]), "curve": curve}
