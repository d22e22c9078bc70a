"""What Grand et al. read off their nets: three measures of two learning curves, and how far each layer drifts.

In their code an "iteration" is one image, and so it is here: all is counted in images.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch

from layerwise.feed import feed
from layerwise.layers import layers
from layerwise.measure import Bench, Row
from layerwise.probes.drift import Watch, distances, similarities
from layerwise.run import Run, key
from layerwise.train import train

Curve = Sequence[tuple[int, float]]  # test accuracy after so many images; the first is before any
BATCH = 50  # images in a step
NEVER = "never reached: counted as all images"


def area(curve: Curve) -> float:
    """The right Riemann sum of a learning curve, in accuracy x images: section 3.1.

    >>> area([(0, 0.5), (250, 0.6), (500, 0.8)])
    350.0
    """
    return sum((after - before) * accuracy for (before, _), (after, accuracy) in pairwise(curve))


def images_to(curve: Curve, level: float) -> tuple[int, bool]:
    """Images until the accuracy is first as high, and whether it ever is; where it never is, all images.

    The start does not count: a net that begins above the level is given the first interval, as in the paper. All curves
    of a study end after equally many images, so that the mean with "never" counted as all of them is the restricted
    mean up to there (the area under Kaplan and Meier's curve): too short, never too long, where some never get there.

    >>> images_to([(0, 0.9), (250, 0.6), (500, 0.8)], 0.6), images_to([(0, 0.5), (250, 0.6)], 0.7)
    ((250, True), (250, False))
    """
    reached = [images for images, accuracy in curve[1:] if accuracy >= level]
    return (reached[0], True) if reached else (curve[-1][0], False)


def compared(curve: Curve, scratch: Curve) -> list[Row]:
    """A net's learning curve against that of the net from scratch on the same task: the paper's three measures.

    Of a net compared with itself the second says when it first had the accuracy that it ends with.
    """
    needed, ever = images_to(curve, scratch[-1][1])
    return [
        {"quantity": "final_gain", "value": curve[-1][1] - scratch[-1][1]},
        {"quantity": "images_to_level", "value": float(needed), "reason": None if ever else NEVER},
        {"quantity": "area_between", "value": area(curve) - area(scratch)},
        {"quantity": "mean_accuracy", "value": area(curve) / curve[-1][0]},
    ]


def drift(bench: Bench, run: Run, *, every: int, images: int) -> list[Row]:
    """Train the run once more, and see after every so many steps how far its layers are from their start (section 3.3).

    Distances raw and by three other measures (see `layerwise.probes.drift`), and the CKA of what each layer makes of so
    many test images with what it makes of them in the end. The learning curve is known, and not measured again.
    """
    recipe = replace(run.recipes[0], evaluate_every=0)
    steps = {*range(0, recipe.steps, every), recipe.steps}
    watch, food = Watch(steps), feed(run.task, bench.data, run.net, recipe.dtype_name, recipe.channels_last)
    source = bench.trained(run.source_run) if run.source_run else None
    train(replace(run, recipes=(recipe,)), food, source, observe=watch)
    test, net = food.parts["test"], bench.fresh(run).to(food.codes.dtype)
    some = torch.linspace(0, len(test.classes) - 1, min(images, len(test.classes))).round().long()  # of all classes
    looked_at = test.images(some)
    found = layers(net, looked_at[:1])
    readings = distances(net, found, watch.states) + similarities(net, found, watch.states, looked_at)
    return [
        {"run_key": key(run), "step": r.step, "layer": r.layer, "part": r.part, "quantity": r.quantity,
         "value": r.value, "reason": r.reason or None}
        for r in readings
    ]  # fmt: skip
