"""Inception, the network of FID, with the weights that torch-fidelity publishes, if their file is here.

Nothing downloads it. N images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from lab.errors import UserError
from lab.long_work import told

log = logging.getLogger("lab")

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
_INCEPTION_HASH = "6726825d"
"""how the SHA-256 of the published file begins, as its name says"""


class InceptionNet:
    """torch-fidelity's Inception up to its last pooling: (N, C, H, W) in [0, 1] to (N, 2048) float64."""

    def __init__(self, extractor: nn.Module, device: torch.device) -> None:
        self.extractor, self.device = extractor.to(device), device

    def features(self, x: Tensor, batch_size: int = 50) -> Tensor:
        parts = []
        with torch.no_grad():
            for part in told("comparing images by Inception", x.split(batch_size)):
                pixels = (part.clamp(0, 1) * 255).round().to(self.device, torch.uint8)
                parts.append(self.extractor(pixels.expand(-1, 3, -1, -1))[0].double())
        return torch.cat(parts)


def inception_net(device: torch.device) -> InceptionNet | None:
    """Inception, if LAB_INCEPTION or torch's hub cache holds its published weights and torch-fidelity is installed.

    Raises UserError when LAB_INCEPTION names no file, or when the file is another one than the published.
    """
    variable = os.environ.get("LAB_INCEPTION")
    path = Path(variable).expanduser() if variable else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        if variable:
            raise UserError(f"LAB_INCEPTION={variable!r} is no file; it names the weights {INCEPTION_FILE}.")
        log.info("no Inception weights here: distances are those of the LeNet (lenet_...)")
        return None
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(_INCEPTION_HASH):
        raise UserError(f"{str(path)!r} is damaged or not {INCEPTION_FILE}: its SHA-256 is not {_INCEPTION_HASH}...")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # torchvision raises RuntimeError beside a torch that it does not fit
        log.warning("Inception weights are here, but not torch-fidelity (pip install 'lab[fidelity]'): %s", error)
        return None
    torch.load(path, map_location="cpu", weights_only=True)  # plain tensors, before torch-fidelity reads it in its way
    return InceptionNet(FeatureExtractorInceptionV3("inception", ["2048"], str(path)), device)
