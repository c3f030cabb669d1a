"""Checkpoints of a run: what goes into them, and how a run goes on from one.

best  experiment, counters, best, state_dict, trunks (what other runs' backbones may begin with)
last  the same, and: train (the module's train_state), data, data_digest, rng; of several ranks those of the others in
      `ranks`, and the noise that all draw together; `loop`, what the conductor and the recorder need
"""

from __future__ import annotations

import logging
from typing import Any

from lab.config import serialization
from lab.data.module import LabDataModule
from lab.errors import UserError
from lab.experiment import Experiment
from lab.ranks import collectives, ranks, shared_noise, shares
from lab.runs import checkpoint
from lab.runs.directory import SNAPSHOT, Run
from lab.seeding import derive_seed
from lab.training.learner import Learner

log = logging.getLogger("lab")

_NAMES_OF_DATA = ("data.kind", "data.name", "data.root", "data.path", "data.run")
Best = dict[str, Any] | None
"""the metric, value and counters of the best evaluation"""


class Saver:
    """Writes a run's checkpoints, and restores from `last`. Of several ranks the first writes for all."""

    def __init__(self, experiment: Experiment, run: Run, data: LabDataModule) -> None:
        self.experiment, self.run, self.data = experiment, run, data

    def save_best(self, module: Learner[Any], best: Best) -> None:
        """The weights that were best so far, averaged where the run was evaluated so."""
        with module.averaged():
            checkpoint.save(self.run.checkpoints / "best.ckpt", self._weights(module, best))

    def save_snapshot(self, module: Learner[Any], number: int, count: float) -> None:
        """The weights at the end of a cycle, of an ensemble that a run makes on its way."""
        with module.averaged():
            content = self._weights(module, None)
        content["counters"] |= {module.counter: int(count)}
        checkpoint.save(self.run.checkpoints / f"{SNAPSHOT}{number}.ckpt", content)

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
                "data_digest": self.data.digest(),
                "loop": loop,
            }
            checkpoint.save(self.run.last, content, keep=self.run.previous)

    def restore(self, module: Learner[Any], content: dict[str, Any]) -> None:
        """Go on from the content of `last`, on as many ranks as there are now.

        Raises UserError when the checkpoint is another network's, or the data have changed.
        """
        self._compare(content)
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

    def tell_changes(self, experiment: dict[str, Any]) -> None:
        """Say what is another than in the experiment that the run was begun with."""
        before, now = (serialization.flatten(tree) for tree in (experiment, serialization.dump(self.experiment)))
        changes = [
            f"{field}={now.get(field)!r} (before: {before.get(field)!r})"
            for field in dict.fromkeys((*before, *now))
            if before.get(field) != now.get(field)
        ]
        if changes and ranks.rank() == 0:
            log.warning("the run goes on with %s", ", ".join(changes))

    def _compare(self, content: dict[str, Any]) -> None:
        """Say what is another than at the last checkpoint. Raises UserError for other data of the same name."""
        self.tell_changes(content["experiment"])
        before, now = (
            serialization.flatten(tree) for tree in (content["experiment"], serialization.dump(self.experiment))
        )
        data = {field: value for field, value in now.items() if field.startswith("data.")}
        same = all(before.get(field) == value for field, value in data.items())
        if same and content["data_digest"] != self.data.digest():
            named = ", ".join(f"{field}={data[field]!r}" for field in _NAMES_OF_DATA if data.get(field))
            raise UserError(
                f"the data of {str(self.run.path)!r} have changed since its last checkpoint: {named}. "
                f"Put back those that were there, or begin a new run with its weights: "
                f"trainer.start_from={self.run.path}"
            )

    def _weights(self, module: Learner[Any], best: Best) -> dict[str, Any]:
        return {
            "experiment": serialization.dump(self.experiment),
            "counters": dict(module.counters),
            "best": best,
            "state_dict": module.state_dict(),
            "trunks": [tuple(trunk) for trunk in module.trunks()],
        }


def last_checkpoint(run: Run) -> dict[str, Any] | None:
    """The content of a run's last checkpoint, or None where it was killed before its first.

    Raises UserError, which names a way out, where that checkpoint is damaged or gone.
    """
    if run.last.is_file():
        try:
            return checkpoint.load(run.last)
        except UserError as error:
            raise UserError(f"{error} {_way_out(run)}") from None
    saved = run.result().get("saved") if (run.path / "result.json").is_file() else None
    if saved or run.previous.is_file():
        raise UserError(f"run {str(run.path)!r} was saved, but its checkpoints/last.ckpt is gone. {_way_out(run)}")
    return None


def _way_out(run: Run) -> str:
    """What can be done without the last checkpoint; nothing of the run has been changed."""
    try:
        counters = checkpoint.load(run.previous)["counters"]
        counts = ", ".join(f"{name}={counters[name]:,}" for name in ("env_steps", "samples") if name in counters)
        return f"The one before it ({counts}) is whole: mv {run.previous} {run.last} and resume."
    except UserError:
        best = run.checkpoints / "best.ckpt"
        start = f"; trainer.start_from={run.path} begins a new run with its best weights" if best.is_file() else ""
        return f"Put it back from a copy{start}."


def load_weights(module: Learner[Any], content: dict[str, Any]) -> None:
    """Load a checkpoint's weights. Raises UserError when they belong to another network."""
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the checkpoint does not fit the experiment's module: {reason}") from None
