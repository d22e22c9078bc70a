"""The leading frozen layers, computed once: what comes out of them is the data of the rest.

Only where that is the same every time: frozen layers run in eval mode, so it is, unless the recipe keeps dropout on.
Layers are always given the same number of images at once, so that an image's features are the same bits whichever other
images are computed beside them.
"""

import copy
import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from tempfile import NamedTemporaryFile
from weakref import ref

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from layerwise.errors import LayersError
from layerwise.feed import Feed, Pool
from layerwise.layers import Layer, cut
from layerwise.run import Run

CHUNK = 100  # images at once
RECOMPUTED_HELD = 8  # pools without room that are remembered: each holds its images, and layers


def frozen_depth(run: Run, stage: int) -> int:
    """How many leading layers the stage neither trains nor disturbs."""
    if run.recipes[stage].frozen_dropout:
        return 0
    trained = run.treatment.trained[stage]
    return trained.index(True) if True in trained else len(trained) - 1


def split(net: nn.Module, found: Sequence[Layer], most: int) -> tuple[int, nn.Module, nn.Module]:
    """The net cut after the deepest layer, at most that one, where a single tensor crosses: (layers, first, rest).

    Where it can be cut nowhere, no layer comes first: (0, identity, net).
    """
    for n in range(most, 0, -1):
        try:
            return n, *cut(net, found, n)
        except LayersError:
            continue
    return 0, nn.Identity(), net


@dataclass
class Prefix:
    """What frozen layers made of pools of images: kept in memory, then in a file, and beyond both computed each time.

    Cuts of one source share their forward pass: features after layer 3 go on from those after layer 2 if they are here.
    """

    memory: int = 2**30  # bytes
    disk: int = 0  # bytes
    held: "OrderedDict[tuple[str, int], _Held]" = field(default_factory=OrderedDict)
    given: "list[tuple[ref[Tensor], bool]]" = field(
        default_factory=list
    )  # features still in use, and whether in a file

    def ahead(self, run: Run, stage: int, net: nn.Module, found: Sequence[Layer], feed: Feed) -> tuple[nn.Module, Feed]:
        """The rest of the net behind its frozen layers, and the task as it comes out of these."""
        depth, first, rest = split(net, found, frozen_depth(run, stage))
        return rest, self.beyond(net, found[:depth], first, feed)

    def beyond(self, net: nn.Module, frozen: Sequence[Layer], first: nn.Module, feed: Feed) -> Feed:
        """The task as it comes out of these layers of the net, of which `first` consists."""
        pool = feed.parts["train"].pool
        return feed.with_pool(self._features(list(_digests(net, frozen)), frozen, first, pool)) if frozen else feed

    def _features(self, digests: Sequence[str], frozen: Sequence[Layer], first: nn.Module, pool: Pool) -> Pool:
        name = digests[-1], id(pool)
        if name in self.held:
            self.held.move_to_end(name)
            return self.held[name].features
        first.eval()
        start, shallower = first, pool
        for depth in range(len(digests) - 1, 0, -1):
            if (there := self.held.get((digests[depth - 1], id(pool)))) and not isinstance(there.features, Recomputed):
                between = _between(first, frozen, depth)
                start, shallower = (between.eval(), there.features) if between else (start, shallower)
                break
        made = self._kept(start, shallower)
        self.held[name] = _Held(pool, made)
        without_room = [name for name, held in self.held.items() if isinstance(held.features, Recomputed)]
        for oldest in without_room[:-RECOMPUTED_HELD]:
            del self.held[oldest]
        return made

    @torch.no_grad()
    def _kept(self, first: nn.Module, pool: Pool) -> Pool:
        """The features of all the pool, in memory or a file as they fit, or else what computes them each time."""
        images = pool.shape[0]
        like = first(pool[_rows(0, images, pool)])
        shape = (images, *like.shape[1:])
        features = self._room(shape, like)
        if features is None:
            return Recomputed(first, pool)
        for begin in range(0, images, CHUNK):
            made = first(pool[_rows(begin, images, pool)])
            features[begin : begin + CHUNK] = made[: images - begin]
        return features

    def _room(self, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        """An empty tensor for features, for which older ones may have to go; null where there is no room."""
        size = prod(shape) * like.element_size()
        made: Tensor | None = None
        if self._makes_room(size, self.memory, in_file=False):
            made = torch.empty(shape, dtype=like.dtype, device=like.device)
        elif like.is_cpu and self._makes_room(size, self.disk, in_file=True):
            made = _in_a_file(shape, like.dtype)
        if made is not None:
            self.given.append((ref(made), made.is_shared()))
        return made

    def _makes_room(self, size: int, budget: int, *, in_file: bool) -> bool:
        """Let go of the oldest features until there is room; what a run is using stays, and counts."""
        while size <= budget:
            self.given = [(features, where) for features, where in self.given if features() is not None]
            alive = [features() for features, where in self.given if where == in_file]
            used = sum(features.nbytes for features in alive if features is not None)
            del alive
            if used + size <= budget:
                return True
            oldest = next((name for name, held in self.held.items() if held.is_in(in_file)), None)
            if oldest is None:
                return False
            del self.held[oldest]
        return False


@dataclass(frozen=True)
class _Held:
    """Features, and the pool that they were made of, so that its identity stays its own."""

    pool: Pool
    features: Pool

    def is_in(self, file: bool) -> bool:
        """Are the features in a file, or in memory?"""
        return isinstance(self.features, Tensor) and self.features.is_shared() == file


def _in_a_file(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """An empty tensor whose content is on the disk; null where the disk has no room for it.

    The file has no name any more, so that the system removes it when its process ends, however that ends. Its room is
    taken now: a disk that is full later would kill the process that writes.
    """
    try:
        with NamedTemporaryFile(prefix="layerwise-features-") as file:
            os.posix_fallocate(file.fileno(), 0, prod(shape) * dtype.itemsize)
            return torch.from_file(file.name, shared=True, size=prod(shape), dtype=dtype).view(shape)
    except OSError:
        return None


class Recomputed:
    """A pool of features for which there is no room: they are computed whenever they are asked for."""

    def __init__(self, first: nn.Module, pool: Pool) -> None:
        self.first, self.pool = copy.deepcopy(first), pool  # the net will be given other weights
        self.shape = pool.shape[:1]

    @torch.no_grad()
    def __getitem__(self, rows: Int[Tensor, " some"]) -> Float[Tensor, "some ..."]:
        made = []
        for some in torch.split(rows, CHUNK):
            padded = torch.cat([some, some[:1].expand(CHUNK - len(some))])
            made.append(self.first(self.pool[padded])[: len(some)])
        return torch.cat(made)


def suggested(tensor: Tensor) -> torch.memory_format:
    """The memory format that the tensor has."""
    return torch.contiguous_format if tensor.is_contiguous() else torch.channels_last


def _rows(begin: int, images: int, pool: Pool) -> Int[Tensor, " chunk"]:
    """The next rows; a chunk that reaches beyond the last image begins anew with the first."""
    device = pool.device if isinstance(pool, Tensor) else "cpu"
    return torch.arange(begin, begin + CHUNK, device=device) % images


def _between(first: nn.Module, frozen: Sequence[Layer], depth: int) -> nn.Module | None:
    """The part of the frozen layers that comes after so many of them; null where they cannot be cut there."""
    try:
        return cut(first, frozen, depth)[1]
    except LayersError:
        return None


def _digests(net: nn.Module, frozen: Sequence[Layer]) -> Iterator[str]:
    """For each frozen layer, a name for its weights and those of all before it."""
    state, digest = net.state_dict(), hashlib.sha256()
    for layer in frozen:
        for name in (*layer.parameters, *layer.buffers):
            if name in state:
                digest.update(name.encode())
                digest.update(state[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        yield digest.hexdigest()
