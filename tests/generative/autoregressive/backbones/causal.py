"""Small autoregressive backbones for tests."""

import torch

from lab.backbones.registry import BACKBONES

SMALL = {
    "pixelcnn": {"channels": 3, "blocks": 3, "first_kernel": 5},
    "gated_pixelcnn": {"channels": 4, "layers": 5, "first_kernel": 5},
    "pixelcnn_pp": {"filters": 4, "blocks": 1, "stages": 2},
    "pixelsnail": {"filters": 4, "blocks": 2, "residuals": 1, "keys": 3, "values": 4, "first_kernel": 3},
    "row_lstm": {"hidden": 4, "layers": 2, "first_kernel": 3},
    "diagonal_bilstm": {"hidden": 4, "layers": 2, "first_kernel": 3},
}
CAUSAL = tuple(SMALL)
NO_BLIND_SPOT = tuple(name for name in SMALL if name not in ("pixelcnn", "row_lstm"))


def causal_net(name, shape, *, seed=0, **options):
    """A small network in float64 and evaluation mode, with weights large enough to matter."""
    torch.manual_seed(seed)
    net = BACKBONES[name].factory(shape, **{**SMALL[name], **options}).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    return net
