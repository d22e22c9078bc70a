"""Nets of torchvision, by the names that it has for them: `torchvision:resnet18`. And a way to import it anywhere."""

import importlib
import sys
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from layerwise.errors import StudyError
from layerwise.nets.kind import Architecture

EXTRAS = {"timm": "vision", "torchvision": "vision", "transformers": "transformers"}
COLOURS = 3
# These two have second heads for training unless told otherwise, and calculate otherwise once they have weights.
SECOND_HEADS = ("googlenet", "inception_v3")

_defined: list[torch.library.Library] = []  # operators live as long as this


def imported(library: str) -> Any:
    """timm, torchvision or transformers; StudyError, with what to install, where it is not there.

    torchvision without its compiled operators, as beside a PyTorch for another processor, is imported all the same:
    nets need none of them.
    """
    try:
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            _define_operators()
            importlib.import_module("torchvision")
        except ModuleNotFoundError:
            if library == "torchvision":
                raise
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        cure = f"pip install 'layerwise[{EXTRAS[library]}]'"
        raise StudyError(f"nets of {library} need it, and it is not installed ({error}); {cure}") from error


def _define_operators() -> None:
    """Declare the operators that torchvision's import asks for, and forget the import that failed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _defined.append(library)


@lru_cache(maxsize=64)
def architecture_of(name: str) -> Architecture:
    """torchvision's classification net of this name; raises StudyError, with the nearest one, where it has none."""
    models = _models(name)
    wants = models.get_model_weights(name).DEFAULT.transforms()
    own_size = wants.crop_size[0]

    def build(channels: int, size: int, outputs: int) -> nn.Module:
        how: dict[str, Any] = {"weights": None, "num_classes": outputs}
        if name in SECOND_HEADS:
            how |= {"aux_logits": False, "init_weights": True, "transform_input": channels == COLOURS}
        net = _sized(models, name, how, size) if size != own_size else models.get_model(name, **how)
        return net if channels == COLOURS else _of_channels(net, channels)

    build.__doc__ = f"torchvision's {name}."
    return Architecture(build, tuple(wants.mean), tuple(wants.std), own_size)


def pretrained(name: str) -> dict[str, Tensor]:
    """torchvision's own weights for the net, downloaded where they are not in its cache."""
    models = _models(name)
    net: nn.Module = models.get_model(name, weights=models.get_model_weights(name).DEFAULT, progress=False)
    return net.state_dict()


def _models(name: str) -> Any:
    models = imported("torchvision").models
    known = models.list_models(module=models)
    if name not in known:
        near = get_close_matches(name, known, n=1)
        cure = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(known)}"
        raise StudyError(f"torchvision has no classification net '{name}'; {cure}")
    return models


def _sized(models: Any, name: str, how: dict[str, Any], size: int) -> nn.Module:
    """The net for images of another size than its own: some want to be told."""
    for told in ({"image_size": size}, {"input_size": (size, size)}):
        try:
            return models.get_model(name, **how, **told)
        except TypeError:
            continue
    return models.get_model(name, **how)


def _of_channels(net: nn.Module, channels: int) -> nn.Module:
    """The net for images of other than three channels: its first convolution is made anew."""
    for holder in net.modules():
        for name, first in holder.named_children():
            if isinstance(first, nn.Conv2d) and first.in_channels == COLOURS:
                made = nn.Conv2d(
                    channels, first.out_channels, first.kernel_size, first.stride, first.padding, first.dilation,
                    first.groups, first.bias is not None, first.padding_mode,
                )  # fmt: skip
                setattr(holder, name, made)
                return net
    return net
