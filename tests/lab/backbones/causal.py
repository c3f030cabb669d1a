"""Small autoregressive backbones for tests."""

import torch

from lab.backbones.registry import registered

SMALL = {
    "pixelcnn": {"channels": 3, "blocks": 3, "first_kernel": 5},
    "gated_pixelcnn": {"channels": 4, "layers": 5, "first_kernel": 5},
}
CAUSAL = tuple(SMALL)
NO_BLIND_SPOT = tuple(name for name in SMALL if name != "pixelcnn")


def causal_net(name, shape, *, seed=0, **options):
    """A small network in float64 and evaluation mode, with weights large enough to matter."""
    torch.manual_seed(seed)
    net = registered(name).factory(shape, **{**SMALL[name], **options}).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    return net
