"""VGG-19's layers for small grey images, an eighth as wide: a net so deep that it trains in seconds.

Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556, table 1, configuration E: sixteen 3x3 convolutions in five
stages, max pooling after each, three fully connected layers. Changed: 32x32 grey images, so that the last pooling
leaves one pixel; an eighth of the maps; batch norm, as torchvision's vgg19_bn has it, without which nineteen layers do
not learn in a few hundred steps; no dropout. He's initialisation, as torchvision's.
"""

from collections import OrderedDict

from torch import nn

from layerwise.nets.inputs import takes_grey

STAGES = ((8, 2), (16, 2), (32, 4), (64, 4), (64, 4))  # maps, convolutions
HIDDEN = 64


def vgg19narrow(channels: int, size: int, outputs: int) -> nn.Module:
    """VGG-19 for 32x32 grey images, an eighth as wide, with batch norm: sixteen convolutions, three linear layers."""
    takes_grey("vgg19narrow", channels, size)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    given = channels
    for maps, convolutions in STAGES:
        for left in reversed(range(convolutions)):
            layers[f"conv{len(layers) + 1}"] = _convolution(given, maps, last=left == 0)
            given = maps
    layers["conv16"] = nn.Sequential(*layers["conv16"].children(), nn.Flatten())  # of one pixel
    layers["fc17"] = nn.Sequential(nn.Linear(given, HIDDEN), nn.ReLU())
    layers["fc18"] = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU())
    layers["fc19"] = nn.Linear(HIDDEN, outputs)
    net = nn.Sequential(layers)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def _convolution(given: int, maps: int, *, last: bool) -> nn.Sequential:
    """A convolution with batch norm, and the pooling where it is the last of its stage."""
    pooling = [nn.MaxPool2d(2)] if last else []
    return nn.Sequential(nn.Conv2d(given, maps, 3, padding=1, bias=False), nn.BatchNorm2d(maps), nn.ReLU(), *pooling)
