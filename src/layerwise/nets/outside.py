"""Nets from outside: of timm, torchvision and transformers, and of the user's own files."""

from collections.abc import Callable
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from layerwise.errors import LayersError
from layerwise.layers import in_eval
from layerwise.nets import from_timm, from_torchvision, from_transformers, own_file
from layerwise.nets.kind import Architecture

LIBRARIES: dict[str, ModuleType] = {
    "timm": from_timm, "torchvision": from_torchvision, "transformers": from_transformers
}  # fmt: skip


def named(text: str) -> str:
    """The name that runs have for a net from outside; StudyError where its file or folder cannot be read."""
    library, _, name = text.partition(":")
    if library == "transformers":
        return from_transformers.named(name)
    return text if library in LIBRARIES else own_file.named(text)


@lru_cache(maxsize=64)
def found(name: str) -> Architecture:
    """The net of this name, as runs have it. The first net of each size is tried on an image before it is given."""
    library, _, rest = name.partition(":")
    own = LIBRARIES[library].architecture_of(rest) if library in LIBRARIES else own_file.architecture_of(name)
    return Architecture(_tried(name, own), own.mean, own.std, own.size)


def _tried(name: str, own: Architecture) -> Callable[[int, int, int], nn.Module]:
    fit: set[tuple[int, int]] = set()

    def build(channels: int, size: int, outputs: int) -> nn.Module:
        try:
            net = own.build(channels, size, outputs)
            is_known = (channels, size) in fit and not any(map(is_lazy, net.parameters()))
            made = None if is_known else _of_one_image(net, channels, size)  # lazy modules need one for their weights
        except LayersError:
            raise
        except Exception as error:  # a library's code or the user's: anything may come
            why = f"{type(error).__name__}: {error}".partition("\n")[0]
            cure = f"; its own are {own.size}x{own.size}: pass --resize {own.size}" * (own.size not in {None, size})
            if channels == 1 and _takes_colour(own, size, outputs):
                cure += "; it is for colour images: " + (
                    "a function of your own around it, FILE.py:FUNCTION, may repeat the channel"
                    if name.partition(":")[0] in LIBRARIES
                    else "a function that takes `channels` is told that these are grey"
                )
            images = f"{size}x{size} images of {channels} channel{'s' * (channels != 1)}"
            raise LayersError(f"net '{name}' does not take {images} ({why}){cure}") from error
        if made is not None and (not isinstance(made, Tensor) or made.shape != (1, outputs)):
            what = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
            raise LayersError(f"net '{name}' gives {what} for one image, not a row of {outputs} outputs")
        fit.add((channels, size))
        return net

    build.__doc__ = own.build.__doc__
    return build


def _takes_colour(own: Architecture, size: int, outputs: int) -> bool:
    try:
        _of_one_image(own.build(3, size, outputs), 3, size)
    except Exception:  # as above
        return False
    return True


@torch.no_grad()
def _of_one_image(net: nn.Module, channels: int, size: int) -> object:
    with in_eval(net):
        return net(torch.zeros(1, channels, size, size))
