"""The device of an experiment, and the Lightning trainer that works on it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lab.errors import UserError
from lab.experiment import TrainerConfig
from lab.lightning import Callback, Trainer


def resolve_device(name: str) -> torch.device:
    """The device of `trainer.device`. Raises UserError when the machine has none such."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"trainer.device={name!r} is not a device. Valid choices: auto, cpu, cuda, cuda:0.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"trainer.device={name!r}: this machine has {torch.cuda.device_count()} CUDA devices.")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"trainer.device={name!r} is not supported. Valid choices: auto, cpu, cuda, cuda:0.")
    return device


def build_trainer(
    trainer_config: TrainerConfig,
    *,
    folder: Path,
    logger: Any,
    callbacks: Sequence[Callback],
) -> Trainer:
    """The Lightning trainer of an experiment: one endless epoch, ended by the callbacks.

    On several workers each has a trainer of its own; what they do together, they do by `lab.ranks.ranks`.
    """
    device = resolve_device(trainer_config.device)
    devices: Any = [device.index] if device.type == "cuda" and device.index is not None else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=devices,
            precision="bf16-mixed" if trainer_config.precision == "bf16" else "32-true",
            max_epochs=-1,
            logger=logger or False,
            callbacks=list(callbacks),
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            barebones=False,
            deterministic="warn" if trainer_config.deterministic else None,
            log_every_n_steps=2**31,
            use_distributed_sampler=False,
        )
