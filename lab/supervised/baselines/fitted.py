"""What is fitted and not learned by updates: tensors whose number of rows the data decide."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Fitted(nn.Module):
    """A module whose buffers take the length of those that are loaded, along their first dimension."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name, buffer in self.named_buffers(recurse=False):
            given = state_dict.get(prefix + name)
            if isinstance(given, Tensor) and given.shape[1:] == buffer.shape[1:] and given.dim() == buffer.dim():
                setattr(self, name, torch.empty_like(given, dtype=buffer.dtype, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
