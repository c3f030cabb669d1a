"""FractalNet: depth without shortcuts, by paths of several lengths whose means are joined (Larsson et al. 2017).

B batch, C channels, K columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lab.backbones.layers import Form, Share, conv_norm, initialized, is_small
from lab.backbones.registry import register
from lab.backbones.staged import Staged


class Fractal(nn.Module):
    """f_1 is a convolution; f_(K+1)(x) joins f_K(f_K(x)) and a convolution of x.

    While it learns, each input of a join is lost with probability `drop_path`, but for one at least (local sampling);
    in half of the minibatches one column alone is kept in the whole block instead (global sampling).
    """

    def __init__(self, before: int, after: int, columns: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.num_columns, self.drop_path = columns, drop_path
        steps = 2 ** (columns - 1)
        self.columns = nn.ModuleList(
            nn.ModuleDict(
                {
                    str(step): _unit(before if step == 2**column - 1 else after, after, dropout)
                    for step in range(steps)
                    if (step + 1) % 2**column == 0
                }
            )
            for column in range(columns)
        )
        """column 0 is the deepest, with a convolution in each step; column k has one in every 2^k-th"""
        self.num_steps = steps

    def forward(self, x: Tensor) -> Tensor:
        only = self._only_column(x)
        inputs = [x] * self.num_columns
        for step in range(self.num_steps):
            joined = [column for column in range(self.num_columns) if str(step) in self._units(column)]
            outputs = [self._units(column)[str(step)](inputs[column]) for column in joined]
            mean = self._join(outputs, joined, only)
            for column in joined:
                inputs[column] = mean
        return inputs[0]

    def _units(self, column: int) -> nn.ModuleDict:
        units = self.columns[column]
        assert isinstance(units, nn.ModuleDict)
        return units

    def _only_column(self, x: Tensor) -> Tensor | None:
        """The weights (K,) of the columns in a minibatch for which one of them is drawn, or 1 for all of them."""
        if not self.training or self.drop_path == 0:
            return None
        whole = torch.rand((), device=x.device) < 0.5
        drawn = torch.rand(self.num_columns, device=x.device)
        return torch.where(whole, (drawn == drawn.max()).to(x.dtype), torch.ones_like(drawn, dtype=x.dtype))

    def _join(self, outputs: list[Tensor], joined: list[int], only: Tensor | None) -> Tensor:
        """The mean of those outputs that are not lost."""
        if only is None:
            return torch.stack(outputs).mean(0) if len(outputs) > 1 else outputs[0]
        drawn = torch.rand(len(outputs), device=only.device)
        stays = ((drawn >= self.drop_path) | (drawn == drawn.max())).to(only.dtype)
        single = only[joined]
        weights = torch.where(only.sum() == 1, single, stays)
        weights = torch.where(weights.sum() == 0, torch.ones_like(weights), weights)
        return (torch.stack(outputs) * (weights / weights.sum())[:, None, None, None, None]).sum(0)


@register("fractalnet", example_shape=(3, 32, 32), staged=True)
def fractalnet(
    input_shape: tuple[int, ...],
    *,
    channels: tuple[int, ...] = (64, 128, 256, 512, 512),
    columns: int = 3,
    dropout: Share = 0.0,
    drop_path: Share = 0.15,
    form: Form = "small",
) -> nn.Module:
    """FractalNet-21 (Larsson et al. 2017): five blocks of three columns, 33.7 M parameters (38.6 M in the paper)."""
    is_small(input_shape, form, least=32)
    layers: list[nn.Module] = []
    before, ends = input_shape[0], {}
    for block, after in enumerate(channels):
        share = dropout * block / max(1, len(channels) - 1)
        layers.append(Fractal(before, after, columns, share, drop_path))
        ends[len(layers) - 1] = 2**block
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
        before = after
    return initialized(Staged(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), ends=ends))


def _unit(before: int, after: int, dropout: float) -> nn.Sequential:
    """A 3x3 convolution, dropout, normalisation and rectification, in the paper's order."""
    conv, norm = conv_norm(before, after, 3)
    return nn.Sequential(conv, nn.Dropout(dropout), norm, nn.ReLU())
