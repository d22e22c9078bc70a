"""Which classes a source should learn for a given target: choices made before anything is trained.

Only training images are looked at: those of the candidate classes, and the few of the target's. Choices are

random   so many of the class split's own source classes; fewer are among more
similar  the candidates whose mean image is nearest to that of some target class
diverse  candidates whose mean images are far from one another, whatever the target (farthest first, Gonzalez 1985)
probe    the candidates that the target's samples are most often taken for, by their nearest neighbours in the features
         of a net that was never trained

The probe's net is the study's own, drawn once from a fixed seed, up to the layer before its last two (S4 of LeNet-5).
It is not trained because a trained one would be a source already, with classes of its own, and the plan of a study is
known before its first step. Random filters and sub-sampling still compare images less pixel by pixel than means do.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from scipy.spatial.distance import cdist
from torch import Tensor

from layerwise.data.dataset import DataSet
from layerwise.feed import scaled
from layerwise.layers import cut, layers
from layerwise.nets import architecture, build
from layerwise.probes.neighbours import NEIGHBOURS, neighbour_shares, placed
from layerwise.randomness import generator, seed
from layerwise.studies.request import Request
from layerwise.tasks import Task, examples

MOST_IMAGES = 40  # of a candidate class that a choice looks at
TOGETHER = 100  # images in one forward pass


def numbers(width: int) -> tuple[int, ...]:
    """How many source classes are tried where a class split has so many: a quarter, half and all of them.

    >>> numbers(20), numbers(5)
    ((5, 10, 20), (2, 5))
    """
    return tuple(sorted({count for count in (width // 4, width // 2, width) if count >= 2}))


def choices(request: Request, net: str, known: Sequence[int], target: Task, shots: int) -> dict[str, tuple[int, ...]]:
    """Source classes by name of choice: "random 5", "random 10", "random 20", "similar 10", "diverse 10", "probe 10".

    Half as many as the class split's own source has are chosen, among all classes but the target's; where the user
    fixed the source's classes, among those. None is chosen where half of them are not two. `target` has the samples
    that may be looked at, and `shots` is how many images of each candidate.
    """
    data, number = request.data, len(known) // 2
    drawn = generator("source classes", data.digest, target.seed).permutation(np.asarray(known)).tolist()
    found = {f"random {count}": tuple(sorted(drawn[:count])) for count in numbers(len(known))}
    if number < 2:
        return found
    candidates = _candidates(request, known, target.classes)
    pool = replace(target, classes=candidates, shots=min(shots, MOST_IMAGES))
    theirs, own = _images(pool, data), _images(target, data)
    means, aims = (of_class.reshape(*of_class.shape[:2], -1).mean(1) / 255 for of_class in (theirs, own))
    picked = {
        "similar": similar(means, aims, number),
        "diverse": diverse(means, number),
        "probe": confused(features(theirs, net, target.outputs), features(own, net, target.outputs), number),
    }
    return found | {f"{name} {number}": tuple(sorted(candidates[k] for k in at)) for name, at in picked.items()}


def similar(
    candidates: Float64[np.ndarray, "candidates pixels"], target: Float64[np.ndarray, "classes pixels"], number: int
) -> list[int]:
    """The candidates whose means are nearest to that of some target class."""
    return [int(k) for k in np.argsort(cdist(candidates, target).min(1), kind="stable")[:number]]


def diverse(candidates: Float64[np.ndarray, "candidates pixels"], number: int) -> list[int]:
    """The two candidates furthest apart, then each time the one that is furthest from all that are taken."""
    distances = cdist(candidates, candidates)
    taken = [int(k) for k in np.unravel_index(distances.argmax(), distances.shape)][:number]
    while len(taken) < number:
        nearest = distances[taken].min(0)
        nearest[taken] = -1
        taken.append(int(nearest.argmax()))
    return taken


def confused(
    candidates: Float[Tensor, "candidates images features"], target: Float[Tensor, "classes samples features"],
    number: int,
) -> list[int]:  # fmt: skip
    """The candidates with the most votes of the target's samples: each has one, shared by its nearest neighbours."""
    points = placed(torch.cat([candidates.flatten(0, 1), target.flatten(0, 1)]), "euclidean")
    count = candidates.shape[0] * candidates.shape[1]
    classes = torch.zeros(len(points), dtype=torch.int64)
    classes[:count] = torch.arange(len(candidates)).repeat_interleave(candidates.shape[1])
    rows = torch.arange(len(points))
    votes = neighbour_shares(
        points, classes, rows, min(NEIGHBOURS, count), queries=rows[count:], among=rows[:count]
    ).sum(0)  # fmt: skip
    return [int(k) for k in votes.argsort(descending=True, stable=True)[:number]]


def _candidates(request: Request, known: Sequence[int], target: Sequence[int]) -> tuple[int, ...]:
    """The classes that a source may have."""
    if request.known is not None or (request.split or "").startswith("column:"):
        return tuple(known)
    return tuple(c for c in request.chosen if c not in target)


def _images(task: Task, data: DataSet) -> UInt8[np.ndarray, "classes images channels height width"]:
    """A task's training images, class by class."""
    where = examples(task, data.labels, data.columns, data.class_names).train
    found = data.images[where]
    return found.reshape(len(task.classes), task.shots or -1, *found.shape[1:])


@torch.no_grad()
def features(
    images: UInt8[np.ndarray, "classes images channels height width"], net: str, outputs: int
) -> Float[Tensor, "classes images features"]:
    """What the study's net, never trained, makes of images up to the layer before its last two."""
    shape = images.shape[2], images.shape[3], images.shape[4]
    built = build(net, shape, outputs, seed("net of the probe")).eval()
    found = layers(built, torch.zeros(1, *shape))
    first, _ = cut(built, found, max(1, len(found) - 2))
    pixels = scaled(images.reshape(-1, *shape), architecture(net))
    answers = torch.cat([first(some).flatten(1) for some in torch.split(pixels, TOGETHER)])
    return answers.view(*images.shape[:2], -1)
