"""How weights begin."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Init = Literal["default", "zero", "small", "inverse_sqrt", "he", "xavier", "sparse", "orthogonal"]
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_SMALL = 0.01
_NUM_LINKS = 10


@torch.no_grad()
def initialize(net: nn.Module, init: Init = "default", bias: float | None = None) -> None:
    """Draw the weights of linear, convolutional and recurrent layers, and set their biases.

    Args:
        init: default leaves weights as the network's author drew them; zero (with which units of a layer stay alike);
            small: normal, of standard deviation 0.01; inverse_sqrt: normal, of variance 1 / inputs; he: of variance
            2 / inputs (He et al. 2015); xavier: uniform, of variance 2 / (inputs + outputs) (Glorot and Bengio 2010);
            sparse: 10 links a unit from a normal distribution, no others (Martens 2010); orthogonal (Saxe et al. 2014).
        bias: what biases begin with; None leaves them as they are, but for 0 where weights are drawn anew.
    """
    bias = 0.0 if bias is None and init != "default" else bias
    for layer in net.modules():
        if not isinstance(layer, (nn.Linear, *_CONVOLUTIONS, nn.RNNBase)):
            continue
        for name, parameter in layer.named_parameters(recurse=False):
            if name.startswith("weight") and init != "default":
                _draw(parameter, init)
            elif name.startswith("bias") and bias is not None:
                parameter.fill_(bias)


def _draw(weight: Tensor, init: Init) -> None:
    inputs = weight[0].numel()
    if init == "zero":
        weight.zero_()
    elif init == "small":
        weight.normal_(0, _SMALL)
    elif init == "inverse_sqrt":
        weight.normal_(0, inputs**-0.5)
    elif init == "he":
        weight.normal_(0, (2 / inputs) ** 0.5)
    elif init == "xavier":
        nn.init.xavier_uniform_(weight)
    elif init == "orthogonal":
        nn.init.orthogonal_(weight)
    else:
        rows = weight.view(len(weight), -1)  # (outputs, inputs)
        links = torch.rand_like(rows).argsort(1)[:, :_NUM_LINKS]
        rows.copy_(torch.zeros_like(rows).scatter_(1, links, torch.randn_like(rows).gather(1, links)))
