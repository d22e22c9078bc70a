"""The net with which Grand, Kahn and Reimers asked where in a net is what transfers, and a small relative.

Grand, Kahn, Reimers 2016, "Transferable learning in convolutional neural networks", section 2.1. They took the AlexNet
of Aymeric Damien's TensorFlow examples for 40x40 grey images: after each convolution ReLU, 2x2 max pooling, response
normalisation over nine maps (`tf.nn.lrn(x, 4, bias=1, alpha=0.001 / 9, beta=0.75)`) and dropout that keeps 0.8; no
dropout behind the dense layers. There weights *and biases* are drawn from N(0, 1), so that the first losses are 1e4
and more; `alexnet40normal` begins so, `alexnet40` with He's initialisation. Pixels are taken from 0 to 1, as they are.
"""

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from layerwise.errors import LayersError
from layerwise.nets.response import ResponseNorm

MAPS, DENSE = (64, 128, 256), 1024
SMALL_MAPS, SMALL_DENSE = (8, 16, 32), 128
DROPPED = 0.2
POOLED = 2 ** len(MAPS)  # by how much the image shrinks on its way


def alexnet40(channels: int, size: int, outputs: int) -> nn.Module:
    """Grand's net for 40x40 grey images, three convolutions and three dense layers; He's initialisation."""
    return _net("alexnet40", MAPS, DENSE, _he, channels, size, outputs)


def alexnet40normal(channels: int, size: int, outputs: int) -> nn.Module:
    """Grand's net as the authors began with it: weights and biases drawn from N(0, 1)."""
    return _net("alexnet40normal", MAPS, DENSE, _normal, channels, size, outputs)


def small40(channels: int, size: int, outputs: int) -> nn.Module:
    """Grand's net with an eighth of its maps and dense units: a fiftieth of the work; He's initialisation."""
    return _net("small40", SMALL_MAPS, SMALL_DENSE, _he, channels, size, outputs)


def small40normal(channels: int, size: int, outputs: int) -> nn.Module:
    """The small relative of Grand's net, its weights and biases drawn from N(0, 1)."""
    return _net("small40normal", SMALL_MAPS, SMALL_DENSE, _normal, channels, size, outputs)


def _net(
    name: str, maps: tuple[int, ...], dense: int, draw: Callable[[nn.Conv2d | nn.Linear], None], channels: int,
    size: int, outputs: int,
) -> nn.Module:  # fmt: skip
    """Sizes in the comments are those of `alexnet40` for 40x40 images."""
    _takes(name, channels, size)
    side = size // POOLED
    first, second, third = maps
    net = nn.Sequential(
        OrderedDict(
            conv1=_convolution(1, first),  # 64 x 20 x 20
            conv2=_convolution(first, second),  # 128 x 10 x 10
            conv3=_convolution(second, third, nn.Flatten()),  # 256 x 5 x 5 = 6400
            dense1=nn.Sequential(nn.Linear(third * side * side, dense), nn.ReLU()),  # 1024
            dense2=nn.Sequential(nn.Linear(dense, dense), nn.ReLU()),
            output=nn.Linear(dense, outputs),
        )
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            draw(module)
    return net


def _convolution(inputs: int, maps: int, *more: nn.Module) -> nn.Sequential:
    """ReLU comes after pooling: the largest of four is what it is, for a quarter of the work."""
    norm = ResponseNorm(9, alpha=0.001)  # TensorFlow's alpha is for one square, PyTorch's for their mean
    return nn.Sequential(
        nn.Conv2d(inputs, maps, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), norm, nn.Dropout(DROPPED), *more
    )


def _takes(name: str, channels: int, size: int) -> None:
    """The net takes grey images that can be halved three times; LayersError, with what cures it, for others."""
    cures = ["--resize 40"] * (size % POOLED != 0) + ["--grey"] * (channels != 1)
    if cures:
        images = f"{size}x{size} images of {channels} channel{'s' * (channels != 1)}"
        raise LayersError(
            f"net '{name}' takes grey images whose side is a multiple of {POOLED}, not {images}; pass {' '.join(cures)}"
        )


def _he(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def _normal(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.normal_(layer.weight)
    assert layer.bias is not None
    nn.init.normal_(layer.bias)
