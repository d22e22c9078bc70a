"""Activations: what every layer of a net makes of the same images, from one pass through the net.

A layer's activation is the output of the last module to finish before another layer begins: activations, pooling and
dropout after the layer included, and the whole block where the layer is the last of it. What a net calculates between
its modules, as functions, belongs to the next module's input and is seen only where a module around both ends. A map
that the layer or what follows it flattens is pooled as the map it was, so that all layers are pooled alike.
"""

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerwise.errors import RepresentationError, unknown
from layerwise.feed import Pool, taken
from layerwise.layers import Layer, in_eval, layers

BATCH = 100  # images at once
MEMORY = 2**30  # bytes of features kept in memory; what is more goes to files
POOLINGS = {
    "mean": "the mean over all places or tokens",
    "max": "the largest over all places or tokens",
    "flatten": "every number of it",
    "cls": "the first token",
}


@dataclass(frozen=True)
class Activations(Mapping[str, Float[Tensor, "examples units"]]):
    """The features of each layer, a row an image, by the layer's name in forward order.

    Layers that gave nothing to look at are in `reasons` instead, with why.
    """

    features: dict[str, Float[Tensor, "examples units"]]
    shapes: dict[str, tuple[int, ...]]  # of one image's activation, a map if it was one: (channels, height, width), ...
    reasons: dict[str, str]
    pooling: str

    def __getitem__(self, layer: str) -> Float[Tensor, "examples units"]:
        if layer in self.reasons:
            raise RepresentationError(self.reasons[layer])
        return self.features[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.features)

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Site:
    """Where a layer's activation is taken: the output of this call (from 0) of this module in each pass."""

    module: str
    call: int
    units: int  # of the layer: its output channels or features
    flattened: tuple[int, ...] = ()  # the shape of one image's map, where the output is such a map in a row


def activations(
    net: nn.Module,
    images: Pool,
    *,
    found: Sequence[Layer] | None = None,
    pooling: str = "mean",
    memory: int = MEMORY,
    progress: Callable[[int, int], None] | None = None,
) -> Activations:
    """What each layer makes of the images, (examples, channels, height, width), in eval mode.

    Features are copies, pooled as the pass goes on: convolutional activations (channels, height, width) and tokens
    (tokens, units) by `mean`, `max`, `flatten`, and `cls` for tokens only. Beyond `memory` bytes they lie in an unnamed
    temporary file, mapped into memory. No hook is left behind and the net is in the modes it was in, also when it
    raises.

    Raises RepresentationError for an unknown pooling and where there is no image.
    """
    if pooling not in POOLINGS:
        raise RepresentationError(unknown("pooling", pooling, POOLINGS))
    examples = images.shape[0]
    if examples == 0:
        raise RepresentationError("there are no images to look at")
    found = found if found is not None else layers(net, _rows(images, 0, 1))
    where = sites(net, found, _rows(images, 0, 1))
    collected = _Collected(examples, pooling, where, memory)
    with in_eval(net), _hooked(net, where, collected.take) as begin, torch.no_grad():
        for first in range(0, examples, BATCH):
            collected.first, collected.count = first, min(BATCH, examples - first)
            begin()
            net(_rows(images, first, first + BATCH))
            if progress:
                progress(first + collected.count, examples)
    return Activations(collected.in_order(), collected.shapes, collected.reasons, pooling)


def sites(net: nn.Module, found: Sequence[Layer], example: Float[Tensor, "one ..."]) -> dict[str, Site]:
    """Where each layer's activation is taken, found by running the net on one image."""
    owner = {name: layer.name for layer in found for name in layer.modules if _has_weights(net, name)}
    found_sites: dict[str, Site] = {}
    calls: dict[str, int] = {}
    current: list[str] = []  # the layer that has run last
    maps: dict[str, Tensor] = {}  # the last one of each layer
    flattened: dict[str, tuple[int, ...]] = {}

    def enter(name: str) -> None:
        if name in owner:
            current[:] = [owner[name]]

    def leave(name: str, output: Any) -> None:
        call = calls[name] = calls.get(name, -1) + 1
        if not current:
            return
        (layer,), made = current, _tensor(output)
        if made is not None and made.dim() > 2:
            maps[layer] = made
        elif made is not None and layer in maps and _is_flattened(made, maps[layer]):
            flattened[layer] = tuple(maps[layer].shape[1:])
        found_sites[layer] = Site(name, call, units[layer], flattened.get(layer, ()))

    units = {layer.name: _units(net, layer) for layer in found}
    handles = [
        handle
        for name, module in net.named_modules()
        for handle in (
            module.register_forward_pre_hook(lambda _m, _a, name=name: enter(name)),
            module.register_forward_hook(lambda _m, _a, output, name=name: leave(name, output)),
        )
    ]
    try:
        with in_eval(net), torch.no_grad():
            net(example)
    finally:
        for handle in handles:
            handle.remove()
    return {layer.name: found_sites[layer.name] for layer in found}


class _Collected:
    """The features of all layers while batches pass."""

    def __init__(self, examples: int, pooling: str, where: Mapping[str, Site], memory: int) -> None:
        self.examples, self.pooling, self.where, self.left = examples, pooling, where, memory
        self.features: dict[str, Tensor] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.reasons: dict[str, str] = {}
        self.first = self.count = 0

    def take(self, layer: str, output: Any) -> None:
        """Keep what the layer made of this batch, pooled."""
        if layer in self.reasons:
            return
        made = _tensor(output)
        if made is None or made.dim() < 2 or made.shape[0] != self.count:
            shape = "no tensor" if made is None else f"shape {tuple(made.shape)}"
            self._refuse(layer, f"its output is {shape}, not a row for each of {self.count} images")
            return
        made = _as_map(made, self.where[layer].flattened)
        try:
            rows = pooled(made, self.pooling, self.where[layer].units)
        except RepresentationError as error:
            self._refuse(layer, str(error))
            return
        if layer not in self.features:
            self.shapes[layer] = tuple(made.shape[1:])
            self.features[layer] = self._room(rows)
        if rows.shape[1:] != self.features[layer].shape[1:]:
            self._refuse(layer, f"its width changes from image to image: {tuple(rows.shape[1:])} here")
            return
        self.features[layer][self.first : self.first + self.count] = rows

    def _room(self, rows: Float[Tensor, "some units"]) -> Float[Tensor, "examples units"]:
        size = self.examples * rows.shape[1] * rows.element_size()
        if size <= self.left:
            self.left -= size
            return torch.empty(self.examples, rows.shape[1], dtype=rows.dtype)
        return _in_file(self.examples, rows)

    def in_order(self) -> dict[str, Tensor]:
        """The features in the order of the layers, whichever ran first."""
        return {layer: self.features[layer] for layer in self.where if layer in self.features}

    def _refuse(self, layer: str, reason: str) -> None:
        self.reasons[layer] = f"layer '{layer}': {reason}"
        self.features.pop(layer, None)


def pooled(made: Float[Tensor, "images ..."], pooling: str, units: int) -> Float[Tensor, "images features"]:
    """A row an image of an activation: (units, height, width), (height, width, units), (tokens, units) or (units).

    Units stand last where only the last size is their number: in (channels, units, units) it is that of a square map's
    sides, as where a block adds a few channels to many.
    Raises RepresentationError for `cls` where there are no tokens.
    """
    if made.dim() == 2:
        return made
    if pooling == "cls":
        if made.dim() != 3:
            raise RepresentationError(f"pooling 'cls' is for tokens; an activation here is {tuple(made.shape[1:])}")
        return made[:, 0]
    if pooling == "flatten":
        return made.flatten(1)
    places = list(range(1, made.dim() - 1)) if _is_last(made.shape[1:], units) else list(range(2, made.dim()))
    return made.mean(places) if pooling == "mean" else made.amax(places)


def _is_last(shape: Sequence[int], units: int) -> bool:
    if len(shape) == 2:
        return True
    return shape[-1] == units and units not in (shape[0], shape[-2])


@contextmanager
def _hooked(
    net: nn.Module, where: Mapping[str, Site], take: Callable[[str, Any], None]
) -> Iterator[Callable[[], None]]:
    """Hooks on the sites while this lasts; what it gives is to be called before each pass."""
    at: dict[str, dict[int, str]] = {}
    for layer, site in where.items():
        at.setdefault(site.module, {})[site.call] = layer
    calls: dict[str, int] = {}

    def hook(module: str, output: Any) -> None:
        call = calls[module] = calls.get(module, -1) + 1
        if (layer := at[module].get(call)) is not None:
            take(layer, output)

    handles = [
        net.get_submodule(name).register_forward_hook(lambda _m, _a, output, name=name: hook(name, output))
        for name in at
    ]
    try:
        yield calls.clear
    finally:
        for handle in handles:
            handle.remove()


def _tensor(output: Any) -> Tensor | None:
    """The tensor that a module gives, or the first of several, as of attention with its weights."""
    if isinstance(output, Tensor):
        return output
    several = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return next((value for value in several if isinstance(value, Tensor)), None)


def _is_flattened(made: Tensor, before: Float[Tensor, "one ..."]) -> bool:
    """Is it what was before, number by number, in a row? Of a map of a single place nobody can tell, or needs to."""
    return prod(before.shape[2:]) > 1 and torch.equal(made.flatten(), before.flatten())


def _as_map(made: Float[Tensor, "images ..."], flattened: Sequence[int]) -> Float[Tensor, "images ..."]:
    is_row = bool(flattened) and made.dim() == 2 and made.shape[1] == prod(flattened)
    return made.reshape(len(made), *flattened) if is_row else made


def _has_weights(net: nn.Module, name: str) -> bool:
    return any(True for _ in net.get_submodule(name).parameters())


def _units(net: nn.Module, layer: Layer) -> int:
    """Output channels or features of a layer: the first size of its last matrix of weights."""
    sizes = [net.get_parameter(name).shape[0] for name in layer.parameters if net.get_parameter(name).dim() > 1]
    return sizes[-1] if sizes else 0


def _rows(images: Pool, first: int, last: int) -> Float[Tensor, "some ..."]:
    device = images.device if isinstance(images, Tensor) else "cpu"
    return taken(images, torch.arange(first, min(last, images.shape[0]), device=device))


def _in_file(examples: int, rows: Float[Tensor, "some units"]) -> Float[Tensor, "examples units"]:
    """Room in a file that has no name, and is gone with the tensor."""
    shape = (examples, rows.shape[1])
    size = prod(shape) * rows.element_size()
    with tempfile.TemporaryFile() as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a disk that is full later would kill the process
        except OSError as error:
            raise RepresentationError(
                f"features of {examples} images need {size / 1e6:.0f} MB in a temporary file ({error.strerror}); "
                "probe fewer images, or pool by mean"
            ) from error
        content = mmap.mmap(file.fileno(), size)
    return torch.frombuffer(content, dtype=rows.dtype).view(shape)
