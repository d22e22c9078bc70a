"""Nets of timm, by the names that it has for them: `timm:resnet18`, or with a tag, `timm:resnet18.a1_in1k`.

The tag says which pretrained weights `@pretrained` are, and how they want their pixels.
"""

from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from layerwise.errors import StudyError
from layerwise.nets.from_torchvision import imported
from layerwise.nets.kind import Architecture


@lru_cache(maxsize=64)
def architecture_of(name: str) -> Architecture:
    """timm's net of this name; raises StudyError, with the nearest one, where it has none."""
    timm = imported("timm")
    known = _configuration(timm, name)
    wants = timm.data.resolve_data_config(pretrained_cfg=known.to_dict())

    def build(channels: int, size: int, outputs: int) -> nn.Module:
        sized = {"img_size": size} if known.fixed_input_size else {}
        return timm.create_model(name, num_classes=outputs, in_chans=channels, **sized)

    build.__doc__ = f"timm's {name}."
    return Architecture(build, tuple(wants["mean"]), tuple(wants["std"]), wants["input_size"][1])


def pretrained(name: str) -> dict[str, Tensor]:
    """timm's own weights for the net, downloaded where they are not in its cache."""
    timm = imported("timm")
    if not _configuration(timm, name).has_weights:
        raise StudyError(f"timm has no pretrained weights for '{name}'; give a file: timm:{name}@FILE.safetensors")
    net: nn.Module = timm.create_model(name, pretrained=True)
    return net.state_dict()


def _configuration(timm: Any, name: str) -> Any:
    """What timm knows of the net's weights and pixels; names that would load something else are not known."""
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        near = get_close_matches(base, timm.list_models(), n=1)
        cure = f"did you mean '{near[0]}'?" if near else "see timm.list_models()"
        raise StudyError(f"timm has no net '{base}'; {cure}")
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        if tag:
            tags = ", ".join(full.partition(".")[2] for full in timm.list_pretrained(base))
            raise StudyError(f"timm's '{base}' has no weights '{tag}'; it has: {tags or 'none'}") from None
        return timm.get_pretrained_cfg(name)
