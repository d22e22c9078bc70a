"""An input that a net takes, found in the net itself: what its library says of its images, else the usual sides."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from layerwise.errors import LayersError
from layerwise.layers import in_eval

SIDES = (224, 32, 28, 40, 64, 96, 128, 160, 192, 256, 299, 384)  # of square images, the likeliest first


def example_for(net: nn.Module) -> Tensor:
    """Zeros in the shape of one input, the first of the likely ones that the net takes.

    Shapes are timm's `pretrained_cfg["input_size"]`, `config.num_channels` and `config.image_size` of transformers,
    and images of usual sides with as many channels as the first convolution takes; of a net that begins with a linear
    layer, its features. Which layers there are and in which order does not depend on which of them it is.
    Raises LayersError where it takes none of them, or has weights whose shape its first input decides.
    """
    first = next(net.parameters(), torch.zeros(()))
    if not any(map(is_lazy, net.parameters())):
        for shape in dict.fromkeys(_likely(net)):
            example = torch.zeros(1, *shape, device=first.device, dtype=first.dtype)
            if _takes(net, example):
                return example
    raise LayersError(
        f"net '{type(net).__name__}' does not say what images it takes; pass example=, any input that it takes, such "
        "as torch.zeros(1, 3, 224, 224)"
    )


def _likely(net: nn.Module) -> Iterator[tuple[int, ...]]:
    first = next((module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)), None)
    if isinstance(first, nn.Linear):
        yield (first.in_features,)
    sides = [(side, side) for side in SIDES]
    of_timm = getattr(net, "pretrained_cfg", None)
    if isinstance(of_timm, Mapping) and of_timm.get("input_size"):
        channels, height, width = of_timm["input_size"]
        yield channels, height, width
        sides.insert(0, (height, width))  # it may have been made for other channels
    config = getattr(net, "config", None)
    if size := getattr(config, "image_size", None):
        height, width = (size, size) if isinstance(size, int) else size
        sides.insert(0, (height, width))
    channels = getattr(config, "num_channels", None) or getattr(first, "in_channels", None)
    if channels:
        yield from ((channels, *side) for side in sides)


@torch.no_grad()
def _takes(net: nn.Module, example: Tensor) -> bool:
    try:
        with in_eval(net):
            net(example)
    except Exception:  # it is the net that says no, in its own way
        return False
    return True
