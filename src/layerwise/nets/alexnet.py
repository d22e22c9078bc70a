"""The net of Yosinski et al., and its shape at 32x32 and 64x64: their experiments in minutes instead of days.

Yosinski, Clune, Bengio, Lipson 2014, https://arxiv.org/abs/1411.1792, trained the Caffe reference net, which is
Krizhevsky's with each pooling before its normalisation (Jia et al. 2014, https://arxiv.org/abs/1408.5093). `alexnet8`
is that, layer by layer, with Caffe's initialisation; what is not of the net but of Caffe's solver (biases at twice the
rate and without decay) is left out. With random filters in its third layer that initialisation did not train at all:
`alexnet8he` is the same net with He's, for pixels of deviation 1 (He et al. 2015, https://arxiv.org/abs/1502.01852).

`small8` has the same eight layers in the same order. Changed, so that it trains on two cores: small images and widths,
2x2 pooling, no groups, no dropout, no response normalisation, and He's initialisation, with which eight layers learn
without them. `small8bn` is the same with batch norm.
"""

from collections import OrderedDict
from collections.abc import Mapping

from torch import nn

from layerwise.nets.inputs import takes_both, takes_colour

ALEXNET_SIDE = 224
CAFFE_STARTS = {  # layer: deviation of the weights, value of the biases
    "conv1": (0.01, 0.0), "conv2": (0.01, 1.0), "conv3": (0.01, 0.0), "conv4": (0.01, 1.0), "conv5": (0.01, 1.0),
    "fc6": (0.005, 1.0), "fc7": (0.005, 1.0), "fc8": (0.01, 0.0),
}  # fmt: skip
SMALL_SIDES = (32, 64)
SMALL_WIDTH = 384  # of fc6 and fc7


def alexnet8(channels: int, size: int, outputs: int) -> nn.Module:
    """The Caffe reference net for 224x224 colour images, Yosinski's own: 60,965,224 parameters for 1,000 classes."""
    takes_colour("alexnet8", channels, size, ALEXNET_SIDE)
    net = _alexnet(outputs)
    _start(net, CAFFE_STARTS)
    return net


def alexnet8he(channels: int, size: int, outputs: int) -> nn.Module:
    """The net alexnet8 with He's initialisation, with which layers above random filters learn too."""
    takes_colour("alexnet8he", channels, size, ALEXNET_SIDE)
    net = _alexnet(outputs)
    _start_as_he(net)
    return net


def _alexnet(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Sequential(nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(), _halved(), _normalised()),  # 96 x 27 x 27
            conv2=nn.Sequential(
                nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), _halved(), _normalised()
            ),  # 256 x 13 x 13
            conv3=nn.Sequential(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),  # 384 x 13 x 13
            conv4=nn.Sequential(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU()),
            conv5=nn.Sequential(
                nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), _halved(), nn.Flatten()
            ),  # 256 x 6 x 6 = 9,216
            fc6=nn.Sequential(nn.Linear(9_216, 4_096), nn.ReLU(), nn.Dropout(0.5)),
            fc7=nn.Sequential(nn.Linear(4_096, 4_096), nn.ReLU(), nn.Dropout(0.5)),
            fc8=nn.Linear(4_096, outputs),
        )
    )


def _halved() -> nn.Module:
    """Caffe's pooling, which keeps a last window that reaches over the edge: 54 to 27 to 13 to 6 pixels."""
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def _normalised() -> nn.Module:
    """Across channels: x / (1 + alpha / 5 * sum of the squares of five channels) ** beta, in Caffe as in PyTorch."""
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


def _start(net: nn.Module, starts: Mapping[str, tuple[float, float]]) -> None:
    for name, (deviation, bias) in starts.items():
        for module in net.get_submodule(name).modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=deviation)
                assert module.bias is not None
                nn.init.constant_(module.bias, bias)


def _start_as_he(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    head = net.get_submodule("fc8")
    assert isinstance(head, nn.Linear)
    nn.init.normal_(head.weight, std=0.01)  # Krizhevsky's: the first outputs are near 0


def small8(channels: int, size: int, outputs: int) -> nn.Module:
    """AlexNet's eight layers, small, for 32x32 or 64x64 images: five convolutions, three fully connected layers."""
    takes_both("small8", channels, size, SMALL_SIDES)
    return _small(channels, size, outputs, normed=False)


def small8bn(channels: int, size: int, outputs: int) -> nn.Module:
    """The net small8 with batch norm behind each of its first seven layers, which then have no biases."""
    takes_both("small8bn", channels, size, SMALL_SIDES)
    return _small(channels, size, outputs, normed=True)


def _small(channels: int, size: int, outputs: int, *, normed: bool) -> nn.Module:
    head = nn.Linear(SMALL_WIDTH, outputs)  # before the others: draws go by the order in which layers are made

    def conv(inputs: int, maps: int, *more: nn.Module, side: int = 3, stride: int = 1) -> nn.Module:
        layer = nn.Conv2d(inputs, maps, side, stride=stride, padding=side // 2, bias=not normed)
        return nn.Sequential(layer, *[nn.BatchNorm2d(maps)] * normed, nn.ReLU(), *more)

    def full(inputs: int) -> nn.Module:
        layer = nn.Linear(inputs, SMALL_WIDTH, bias=not normed)
        return nn.Sequential(layer, *[nn.BatchNorm1d(SMALL_WIDTH)] * normed, nn.ReLU())

    net = nn.Sequential(
        OrderedDict(  # sizes are those of 32x32 images
            conv1=conv(channels, 24, nn.MaxPool2d(2), side=5, stride=2),  # 24 x 8 x 8
            conv2=conv(24, 48, nn.MaxPool2d(2)),  # 48 x 4 x 4
            conv3=conv(48, 64),  # 64 x 4 x 4
            conv4=conv(64, 64),
            conv5=conv(64, 64, nn.MaxPool2d(2), nn.Flatten()),  # 256
            fc6=full(64 * (size // 16) ** 2),
            fc7=full(SMALL_WIDTH),
            fc8=head,
        )
    )
    _start_as_he(net)
    return net
