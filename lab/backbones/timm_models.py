"""Networks of timm, PyTorch Image Models (Wightman 2019), as backbones: `module.backbone.name=timm:resnet18`.

timm is asked by the names that it knows itself; one of the Hugging Face hub (`hf-hub:...`) is none. A network is always
built without weights of others: those that `pretrained` asks for come once, as a run begins, and then lie in its
checkpoints. B batch, C channels, H rows, W columns, F features.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from lab.errors import UserError, unknown

PREFIX = "timm"


class TimmNet(nn.Module):
    """(B, C, H, W) -> (B, F), and maps where the model tells of them: the last one at each of its strides."""

    def __init__(self, name: str, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.name, self.input_shape = name, input_shape
        self.model = _create(name, input_shape, pretrained=False)
        told = self.model.feature_info if hasattr(self.model, "forward_intermediates") else ()
        places = {int(each["reduction"]): index for index, each in enumerate(told)}
        self._places = dict(sorted(places.items()))

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each map, finest first."""
        return tuple(self._places)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.model(x)
        return features

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """The last output at each stride, finest first."""
        indices = list(self._places.values())
        return tuple(self.model.forward_intermediates(x, indices=indices, intermediates_only=True))

    def load_pretrained(self) -> None:
        """Take timm's own weights. Raises UserError when it has none of this name, or they cannot be fetched."""
        about = f"module.backbone.pretrained=true: weights of {PREFIX}:{self.name}"
        configuration = timm_of(self.name).get_pretrained_cfg(self.name)
        if configuration is None or not configuration.has_weights:
            raise UserError(f"{about} do not exist; timm has this network without any.")
        try:
            given = _create(self.name, self.input_shape, pretrained=True)
        except Exception as error:  # of whatever library fetches them
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"{about} cannot be fetched ({reason}); without a network, put them into the cache of the Hugging "
                f"Face hub (HF_HOME) before, or take module.backbone.pretrained=false."
            ) from None
        self.model.load_state_dict(given.state_dict())


def timm_of(name: str) -> ModuleType:
    """The package. Raises UserError when it is not installed, or knows no model of this name."""
    try:
        import timm
    except Exception as error:  # a torchvision that was built for another torch is a RuntimeError
        if isinstance(error, ImportError) and error.name == "timm":
            raise UserError(f"backbone '{PREFIX}:{name}' needs timm: pip install 'lab[timm]'.") from None
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"backbone '{PREFIX}:{name}' needs timm, which cannot be imported ({reason}); it takes a torchvision that "
            f"was built for this torch."
        ) from None
    module: ModuleType = timm
    if not module.is_model(name):
        raise unknown("model of timm", name, module.list_models())
    return module


@lru_cache
def factory_of(name: str) -> Any:
    """The factory of a model's backbone. Raises UserError as `timm_of` does."""
    timm_of(name)

    def timm_net(input_shape: tuple[int, ...], *, pretrained: bool = False) -> nn.Module:
        """A network of timm, without its head."""
        return TimmNet(name, input_shape)

    return timm_net


def _create(name: str, input_shape: tuple[int, ...], *, pretrained: bool) -> Any:
    """The model without its head. Raises ValueError where it cannot be built for such inputs."""
    if len(input_shape) != 3:
        raise ValueError("it needs an image (channels, height, width)")
    timm = timm_of(name)
    configuration = timm.get_pretrained_cfg(name)
    fixed = configuration is not None and configuration.fixed_input_size
    size = {"img_size": input_shape[1:]} if fixed else {}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=input_shape[0], **size)
    except (TypeError, AssertionError, KeyError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
