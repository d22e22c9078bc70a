"""AlexNet's shape at 32x32: what the experiments of Yosinski et al. need, in minutes instead of days.

Yosinski, Clune, Bengio, Lipson 2014, https://arxiv.org/abs/1411.1792, trained Krizhevsky's net of five convolutions and
three fully connected layers. This has the same eight layers in the same order. Changed, so that it trains on two cores:
small images and widths, 2x2 pooling, no dropout, no response normalisation, and He's initialisation, with which eight
layers learn without them.
"""

from collections import OrderedDict

from torch import nn

from layerwise.nets.inputs import takes_colour


def small8(channels: int, size: int, outputs: int) -> nn.Module:
    """AlexNet's eight layers for 32x32 colour images, small: five convolutions, three fully connected layers."""
    takes_colour("small8", channels, size)
    head = nn.Linear(384, outputs)
    net = nn.Sequential(
        OrderedDict(
            conv1=nn.Sequential(nn.Conv2d(3, 24, 5, stride=2, padding=2), nn.ReLU(), nn.MaxPool2d(2)),  # 24 x 8 x 8
            conv2=nn.Sequential(nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # 48 x 4 x 4
            conv3=nn.Sequential(nn.Conv2d(48, 64, 3, padding=1), nn.ReLU()),  # 64 x 4 x 4
            conv4=nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
            conv5=nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),  # 256
            fc6=nn.Sequential(nn.Linear(256, 384), nn.ReLU()),
            fc7=nn.Sequential(nn.Linear(384, 384), nn.ReLU()),
            fc8=head,
        )
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    nn.init.normal_(head.weight, std=0.01)  # Krizhevsky's: the first outputs are near 0
    return net
