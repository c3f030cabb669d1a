"""Checkpoints of a run: what goes into them, and how a run goes on from one.

best  experiment, counters, best, state_dict
last  the same, and: train (the module's train_state), data, rng; of several ranks those of the others in `ranks`, and
      the noise that all draw together; `loop`, what the conductor and the recorder need
"""

from __future__ import annotations

from typing import Any

from lab.config import serialization
from lab.data.module import LabDataModule
from lab.errors import UserError
from lab.experiment import Experiment
from lab.ranks import collectives, ranks, shared_noise, shares
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.seeding import derive_seed
from lab.training.learner import Learner

Best = dict[str, Any] | None
"""the metric, value and counters of the best evaluation"""


class Saver:
    """Writes a run's checkpoints, and restores from `last`. Of several ranks the first writes for all."""

    def __init__(self, experiment: Experiment, run: Run, data: LabDataModule) -> None:
        self.experiment, self.run, self.data = experiment, run, data

    def save_best(self, module: Learner[Any], best: Best) -> None:
        """The weights that were best so far."""
        checkpoint.save(self.run.checkpoints / "best.ckpt", self._weights(module, best))

    def save_last(self, module: Learner[Any], best: Best, loop: dict[str, Any]) -> None:
        """Everything that an exact resume needs; every rank takes part."""
        collectives.check_agreement(module)
        train, own = module.train_state(), {"data": self.data.state_dict(), "rng": checkpoint.rng_state()}
        states = collectives.gather({"train": {key: train[key] for key in module.rank_state}, **own})
        if ranks.rank() == 0:
            content = self._weights(module, best) | {
                "train": train,
                **own,
                "ranks": states[1:],
                "noise": shared_noise.noise_state(),
                "loop": loop,
            }
            checkpoint.save(self.run.checkpoints / "last.ckpt", content)

    def restore(self, module: Learner[Any], content: dict[str, Any]) -> None:
        """Go on from the content of `last`, on as many ranks as there are now."""
        load_weights(module, content)
        checkpoint.set_rng_state(content["rng"])
        shared_noise.set_noise_state(content.get("noise", {}))
        count = content["counters"][module.counter]
        shared_noise.separate_generators(derive_seed(self.experiment.seed, "resumed", count), self.data.device)
        states = [{key: content[key] for key in ("train", "data", "rng")}, *content.get("ranks", ())]
        if len(states) == ranks.num_ranks():
            own = states[ranks.rank()]
            module.load_train_state(content["train"] | own["train"])
            self.data.load_state_dict(own["data"])
            checkpoint.set_rng_state(own["rng"])
        else:
            trains = [state["train"] for state in states]
            regrouped = shares.regrouped(trains, module.rank_state, module.train_state())
            module.load_train_state(content["train"] | regrouped)
            self.data.load_state_dicts([state["data"] for state in states])

    def _weights(self, module: Learner[Any], best: Best) -> dict[str, Any]:
        return {
            "experiment": serialization.dump(self.experiment),
            "counters": dict(module.counters),
            "best": best,
            "state_dict": module.state_dict(),
        }


def load_weights(module: Learner[Any], content: dict[str, Any]) -> None:
    """Load a checkpoint's weights. Raises UserError when they belong to another network."""
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the checkpoint does not fit the experiment's module: {reason}") from None
