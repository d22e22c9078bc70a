"""Nets of timm, torchvision and transformers, small and without weights: what a layer is, and that training keeps it.

Each is the library's own class with few and narrow blocks, so that all of them together take seconds.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layerwise.data.dataset import DataSet, make
from layerwise.errors import LayersError
from layerwise.feed import Feed, feed
from layerwise.fleet import train_fleet
from layerwise.groups import GRANULARITIES
from layerwise.layers import Layer, cut, layers, spread
from layerwise.nets import NETS, Architecture, build
from layerwise.nets.from_torchvision import imported
from layerwise.prefix import Prefix, split
from layerwise.run import Recipe, Run
from layerwise.tasks import Parts, Task
from layerwise.train import Trained, train
from layerwise.treatment import Treatment

pytest.importorskip("timm", exc_type=ImportError) if False else None
timm = imported("timm")
models = imported("torchvision").models

SIDE = 32
SHAPE = (3, SIDE, SIDE)
Build = Callable[[int, int, int], nn.Module]


def of_timm(name: str, *, sized: bool = False, **how: Any) -> Build:
    def builder(channels: int, size: int, outputs: int) -> nn.Module:
        told = {"img_size": size} if sized else {}
        return timm.create_model(name, in_chans=channels, num_classes=outputs, **told, **how)

    return builder


def of_torchvision(make: Callable[..., nn.Module], *how: Any, **named: Any) -> Build:
    return lambda _channels, _size, outputs: make(*how, **named, num_classes=outputs)


def of_transformers(kind: str, **how: Any) -> Build:
    def builder(channels: int, size: int, outputs: int) -> nn.Module:
        from layerwise.nets.from_transformers import _classes

        net, configured = _classes(kind, {})
        sized = {"image_size": size} if hasattr(configured(), "image_size") else {}
        return net(configured(num_labels=outputs, num_channels=channels, **sized, **how))

    return builder


def vgg(_channels: int, _size: int, outputs: int) -> nn.Module:
    """torchvision's VGG with narrow maps and dense layers."""
    net = models.VGG(models.vgg.make_layers([4, "M", 6, 6, "M", 8, "M"], batch_norm=True), outputs, init_weights=True)
    net.avgpool = nn.AdaptiveAvgPool2d(2)
    net.classifier = nn.Sequential(nn.Linear(32, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, outputs))
    return net


def regnet() -> Build:
    params = models.regnet.BlockParams([1, 2], [8, 16], [8, 8], [1, 1], [2, 2], 0.25)
    return of_torchvision(models.RegNet, params, stem_width=8)


def mobilenet() -> Build:
    block = models.mobilenetv3.InvertedResidualConfig
    settings = [block(16, 3, 16, 16, True, "RE", 2, 1, 1.0), block(16, 3, 32, 24, False, "HS", 2, 1, 1.0)]
    return of_torchvision(models.MobileNetV3, settings, 32)


ANY: dict[str, Build] = {
    "timm-resnet": of_timm("test_resnet"),
    "timm-vit": of_timm("test_vit", sized=True, depth=3),
    "timm-convnext": of_timm("test_convnext", depths=(1, 1, 2, 1)),
    "timm-efficientnet": of_timm("test_efficientnet"),  # its batch norms have their activations inside
    "timm-regnet": of_timm("test_byobnet"),
    "timm-densenet": of_timm("densenet121", growth_rate=4, block_config=(2, 3), num_init_features=8)
    if False
    else of_timm("densenet121", growth_rate=8, block_config=(2, 3)),
    "timm-swin": of_timm(
        "swin_tiny_patch4_window7_224", sized=True, window_size=4, embed_dim=12, depths=(2, 1), num_heads=(2, 2)
    ),
    "torchvision-vgg": vgg,
    "torchvision-resnet": of_torchvision(models.ResNet, models.resnet.Bottleneck, [1, 2, 1, 1], width_per_group=4),
    "torchvision-vit": of_torchvision(models.VisionTransformer, SIDE, 8, 2, 2, 16, 32),
    "torchvision-mobilenet": mobilenet(),
    "torchvision-regnet": regnet(),
    "transformers-resnet": of_transformers(
        "resnet", depths=[1, 2], hidden_sizes=[16, 32], embedding_size=8, layer_type="basic"
    ),
    "transformers-vit": of_transformers(
        "vit", hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, patch_size=8
    ),
    "transformers-convnext": of_transformers("convnext", depths=[1, 2], hidden_sizes=[8, 16], num_stages=2),
}
