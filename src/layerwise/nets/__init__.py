"""Nets by name: the papers' own, as lists of named layers, and those of other libraries and of the user's files."""

import copy
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import nn

from layerwise.errors import LayersError, StudyError, unknown
from layerwise.nets.alexnet import alexnet8, alexnet8he, small8, small8bn
from layerwise.nets.alexnet40 import alexnet40, alexnet40normal, small40, small40normal
from layerwise.nets.digits import sharma
from layerwise.nets.kind import Architecture
from layerwise.nets.lenet5 import lenet5, lenet5relu
from layerwise.nets.resnet import resnet20, resnet32
from layerwise.nets.vgg import vgg19narrow

__all__ = [
    "FORMS", "LIBRARIES", "NETS", "Architecture", "adopted", "architecture", "build", "draw", "head", "named",
    "own_size",
]  # fmt: skip

# LeCun et al. 1998, section II.B: background at -0.1 and ink at 1.175 give inputs of mean about 0 and variance about 1.
INK_MEAN, INK_STD = 0.1 / 1.275, 1 / 1.275

# Of ImageNet's pixels, per channel; the published weights of the ResNets here were trained with them too.
COLOUR_MEAN, COLOUR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Caffe took the mean of ImageNet's pixels off, per channel, and left their deviation: inputs of -123 to 151.
CAFFE_MEAN, CAFFE_STD = (122.68 / 255, 116.67 / 255, 104.01 / 255), (1 / 255,) * 3

AS_THEY_ARE = (0.0,), (1.0,)  # pixels from 0 to 1

NETS: dict[str, Architecture] = {
    "alexnet40": Architecture(alexnet40, *AS_THEY_ARE),
    "alexnet40normal": Architecture(alexnet40normal, *AS_THEY_ARE),
    "alexnet8": Architecture(alexnet8, CAFFE_MEAN, CAFFE_STD),
    "alexnet8he": Architecture(alexnet8he, COLOUR_MEAN, COLOUR_STD),
    "lenet5": Architecture(lenet5, (INK_MEAN,), (INK_STD,)),
    "lenet5relu": Architecture(lenet5relu, (INK_MEAN,), (INK_STD,)),
    "resnet20": Architecture(resnet20, COLOUR_MEAN, COLOUR_STD),
    "resnet32": Architecture(resnet32, COLOUR_MEAN, COLOUR_STD),
    "sharma": Architecture(sharma, (INK_MEAN,), (INK_STD,)),
    "small40": Architecture(small40, *AS_THEY_ARE),
    "small40normal": Architecture(small40normal, *AS_THEY_ARE),
    "small8": Architecture(small8, COLOUR_MEAN, COLOUR_STD),
    "small8bn": Architecture(small8bn, COLOUR_MEAN, COLOUR_STD),
    "vgg19narrow": Architecture(vgg19narrow, (INK_MEAN,), (INK_STD,)),
}


def adopted(net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> Architecture:
    """The architecture of a net of the user's own; a fresh one is a copy in which every module has reset itself.

    Building raises LayersError, by name, where a module with weights has no `reset_parameters`.
    """

    def fresh(channels: int, size: int, outputs: int) -> nn.Module:
        made = copy.deepcopy(net)
        for name, module in made.named_modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
            elif any(True for _ in module.parameters(recurse=False)):
                raise LayersError(f"module '{name}' ({type(module).__name__}) has weights and no reset_parameters()")
        return made

    return Architecture(fresh, tuple(mean), tuple(std))


LIBRARIES = ("timm", "torchvision", "transformers")
FORMS = {
    "timm:NAME": "a net of timm, such as timm:resnet18",
    "torchvision:NAME": "a classification net of torchvision, such as torchvision:vgg11",
    "transformers:NAME": "an image classification net of transformers, such as transformers:vit",
    "transformers:DIR": "one that was saved: config.json, preprocessor_config.json and model.safetensors if there",
    "FILE.py:FUNCTION": "your own: a function of the number of outputs, and of channels and size if it names them",
    "NET@FILE": "any of these with weights: safetensors, or tensors that PyTorch saved",
    "NET@pretrained": "one of a library with the library's own weights, which it downloads",
}


def named(text: str) -> str:
    """The name that runs have for the net that a user writes, which is the same unless a file or folder makes the net.

    Where that lies is remembered in this process. Raises StudyError where it cannot be read.
    """
    if text in NETS or not _is_outside(text):
        return text
    from layerwise.nets import outside

    return outside.named(text)


def architecture(name: str) -> Architecture:
    """The net of this name; raises StudyError with the nearest one where there is none, or where a library is missing.

    Libraries are imported only for their own nets.
    """
    if name in NETS:
        return NETS[name]
    if not _is_outside(name):
        raise StudyError(unknown("net", name, NETS))
    from layerwise.nets import outside

    return outside.found(outside.named(name))


def _is_outside(text: str) -> bool:
    """Is it the name of a net that is not one of ours?"""
    return ":" in text and (text.partition(":")[0] in LIBRARIES or ".py:" in text)


def own_size(name: str) -> int | None:
    """The side of the images that a net was made for, where it says so: images are resized to it if nothing is said."""
    return architecture(name).size


def build(name: str, shape: tuple[int, int, int], outputs: int, seed: int) -> nn.Module:
    """A fresh net for images of shape (channels, height, width), its weights drawn from the seed alone.

    Raises LayersError where the net does not take such images, with the option that cures it.
    """
    found = architecture(name)
    _, height, width = shape
    if height != width:
        raise LayersError(f"net '{name}' takes square images, not {height}x{width}; pass --resize {min(height, width)}")
    return draw(found, shape, outputs, seed)


def head(name: str, shape: tuple[int, int, int]) -> dict[str, int]:
    """The tensors of a net's head, each with the axis of its outputs: what differs between nets of 2 and 3 outputs."""
    return dict(_head(architecture(name), shape))


@lru_cache(maxsize=64)
def _head(found: Architecture, shape: tuple[int, int, int]) -> tuple[tuple[str, int], ...]:
    two, three = (draw(found, shape, outputs, seed=0).state_dict() for outputs in (2, 3))
    axes = ((n, axis) for n, tensor in two.items() for axis, size in enumerate(tensor.shape))
    return tuple((n, axis) for n, axis in axes if two[n].shape[axis] != three[n].shape[axis])


def draw(found: Architecture, shape: tuple[int, int, int], outputs: int, seed: int) -> nn.Module:
    """A fresh net of an architecture, as `build` gives it of one that has a name."""
    channels, height, _ = shape
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which seeds the accelerators too
        return found.build(channels, height, outputs)
