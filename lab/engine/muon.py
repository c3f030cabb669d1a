"""Muon: the momentum of a matrix, made orthogonal, is its step (Jordan et al. 2024); AdamW for all other parameters.

Steps have the size of AdamW's (Liu et al. 2025), so that one learning rate suits both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor


class MuonAdamW(torch.optim.Optimizer):
    """torch.optim.Muon for parameters of two dimensions that are no embeddings, torch.optim.AdamW for the rest."""

    def __init__(
        self,
        parameters: Iterable[Tensor] | list[dict[str, Any]],
        embeddings: Collection[Tensor] = (),
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        momentum: float,
        nesterov: bool,
    ) -> None:
        elsewhere = {id(p) for p in embeddings}
        matrices, others = list[dict[str, Any]](), list[dict[str, Any]]()
        for each in parameters:
            group: dict[str, Any] = each if isinstance(each, dict) else {"params": [each]}
            settings = {"lr": lr, "weight_decay": weight_decay, **group}
            is_matrix = [p.ndim == 2 and id(p) not in elsewhere for p in group["params"]]
            for chosen, groups in ((True, matrices), (False, others)):
                members = [p for p, fits in zip(group["params"], is_matrix, strict=True) if fits is chosen]
                if members:
                    groups.append({**settings, "params": members})
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(matrices, momentum=momentum, nesterov=nesterov, adjust_lr_fn="match_rms_adamw")
            self.parts.append(muon)
        if others:
            self.parts.append(torch.optim.AdamW(others, betas=betas, eps=eps, fused=True))
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of both, on the state and the settings that are held here."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state, part.param_groups = self.state, [next(groups) for _ in part.param_groups]
            part.step()
