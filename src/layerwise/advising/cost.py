"""What an option costs in arithmetic, its frozen layers computed once and no more, as the engine trains it."""

from functools import lru_cache

import torch

from layerwise.costs import counted
from layerwise.layers import layers
from layerwise.nets import build
from layerwise.prefix import frozen_depth, split
from layerwise.run import Run

Shape = tuple[int, int, int]


def flops(run: Run, shape: Shape, examples: int) -> int:
    """Operations of training a run on so many examples: in each stage frozen layers once, the rest in every step."""
    total = 0
    for stage, recipe in enumerate(run.recipes):
        trained = run.treatment.trained[stage]
        once, step = _image(run.net, shape, run.task.outputs, trained, frozen_depth(run, stage))
        total += once * examples + step * recipe.batch_size * recipe.steps
    return total


@lru_cache(maxsize=4096)
def _image(net: str, shape: Shape, outputs: int, trained: tuple[bool, ...], depth: int) -> tuple[int, int]:
    """Operations for one image: of the layers that are computed once, and of one step through the others."""
    built = build(net, shape, outputs, seed=0).eval()
    image = torch.zeros(1, *shape)
    found = layers(built, image)
    for layer, on in zip(found, trained, strict=True):
        for name in layer.parameters:
            built.get_parameter(name).requires_grad_(on)
    _, first, rest = split(built, found, depth)
    once = counted(lambda: first(image))
    features = first(image).detach()
    learning = any(trained)
    return once, counted(lambda: rest(features).sum().backward() if learning else rest(features))
