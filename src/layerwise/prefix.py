"""The leading frozen layers, computed once: what comes out of them is the data of the rest.

Only where that is the same every time: frozen layers run in eval mode, so it is, unless the recipe keeps dropout on.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from layerwise.errors import LayersError
from layerwise.feed import Feed, Part
from layerwise.layers import Layer, cut
from layerwise.run import Run

CHUNK = 100  # examples at a time


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


@torch.no_grad()
def beyond(first: nn.Module, feed: Feed) -> Feed:
    """The feed of the rest: every part's images as they come out of the first layers."""
    first.eval()

    def through(part: Part) -> Part:
        return Part(torch.cat([first(images) for images in torch.split(part.images, CHUNK)]), part.classes)

    return replace(feed, parts={name: through(part) for name, part in feed.parts.items()})
