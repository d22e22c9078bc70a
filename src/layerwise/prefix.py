"""The leading frozen layers, computed once: what comes out of them is the data of the rest.

Only where that is the same every time: frozen layers run in eval mode, so it is, unless the recipe keeps dropout on or
varies the images (`augment`).
Layers are always given the same number of images at once, so that an image's features are the same bits whichever other
images are computed beside them.
"""

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from layerwise.errors import LayersError
from layerwise.features import CHUNK, Shelf
from layerwise.feed import Feed, Pool, taken
from layerwise.layers import Layer, cut
from layerwise.run import Run
from layerwise.start import State

RECOMPUTED_HELD = 8  # pools without room that are remembered: each holds its images, and layers


def frozen_depth(run: Run, stage: int) -> int:
    """How many leading layers the stage neither trains nor disturbs, and whose input is the same at every pass."""
    if run.recipes[stage].frozen_dropout or run.recipes[stage].augment:
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
    """What frozen layers made of pools of images: kept where there is room for it, else computed whenever it is needed.

    Cuts of one source share their forward pass: features after layer 3 go on from those after layer 2 if they are here,
    or if another process has put all of them into the folder that they have in common.
    """

    shelf: Shelf = field(default_factory=Shelf)
    without_room: "OrderedDict[str, Recomputed]" = field(default_factory=OrderedDict)

    def ahead(self, run: Run, stage: int, net: nn.Module, found: Sequence[Layer], feed: Feed) -> tuple[nn.Module, Feed]:
        """The rest of the net behind its frozen layers, and the task as it comes out of these."""
        depth, first, rest = split(net, found, frozen_depth(run, stage))
        return rest, self.beyond(net, net.state_dict(), found[:depth], first, feed, run.recipes[stage].precision)

    def beyond(
        self, net: nn.Module, state: State, frozen: Sequence[Layer], first: nn.Module, feed: Feed, precision: str
    ) -> Feed:
        """The task as it comes out of these layers of the net in this state; `first` consists of them.

        For use within `layerwise.train.arithmetic` of the precision.
        """
        if not frozen:
            return feed
        names = list(_names(state, frozen, f"{feed.name} {precision}"))
        found: Pool | None = self.shelf.get(names[-1])
        if found is None:
            found = self.without_room.get(names[-1])
        if found is None:
            net.load_state_dict(state)
            found = self._computed(names, frozen, first, feed.pool)
        return feed.with_pool(names[-1], found)

    @torch.no_grad()
    def _computed(self, names: Sequence[str], frozen: Sequence[Layer], first: nn.Module, pool: Pool) -> Pool:
        name, images = names[-1], pool.shape[0]
        start, source = self._nearest(names, frozen, first.eval(), pool)
        like = start(taken(source, _rows(0, images, source)))
        made = self.shelf.fill(name, images, like, lambda begin: start(taken(source, _rows(begin, images, source))))
        if made is not None:
            return made
        self.without_room[name] = Recomputed(first, pool)
        if len(self.without_room) > RECOMPUTED_HELD:
            self.without_room.popitem(last=False)
        return self.without_room[name]

    def _nearest(
        self, names: Sequence[str], frozen: Sequence[Layer], first: nn.Module, pool: Pool
    ) -> tuple[nn.Module, Pool]:
        """The deepest features that are here, or that another process has made, and the layers that lead on from them.

        What lies in the common folder is read as what the layers before it make of the first chunk is shaped.
        """
        for depth in range(len(names) - 1, 0, -1):
            name = names[depth - 1]
            there = self.shelf.get(name)
            if (there is None and not self.shelf.is_begun(name)) or not (halves := _halves(first, frozen, depth)):
                continue
            before, between = halves
            if there is None:
                like = before.eval()(taken(pool, _rows(0, pool.shape[0], pool)))
                there = self.shelf.lent(name, pool.shape[0], like)
            if there is not None:
                return between.eval(), there
        return first, pool


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
            made.append(self.first(taken(self.pool, padded))[: len(some)])
        return torch.cat(made)


def _rows(begin: int, images: int, pool: Pool) -> Int[Tensor, " chunk"]:
    """The next rows; a chunk that reaches beyond the last image begins anew with the first."""
    device = pool.device if isinstance(pool, Tensor) else "cpu"
    return torch.arange(begin, begin + CHUNK, device=device) % images


def _halves(first: nn.Module, frozen: Sequence[Layer], depth: int) -> tuple[nn.Module, nn.Module] | None:
    """The frozen layers cut after so many of them; null where they cannot be cut there."""
    try:
        return cut(first, frozen, depth)
    except LayersError:
        return None


def _names(state: State, frozen: Sequence[Layer], pool: str) -> Iterator[str]:
    """For each frozen layer, a name for what it and those before it make of the pool."""
    digest = hashlib.sha256(pool.encode())
    for layer in frozen:
        for name in (*layer.parameters, *layer.buffers):
            if name in state:
                digest.update(name.encode())
                digest.update(state[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        yield digest.hexdigest()
