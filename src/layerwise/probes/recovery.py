"""What decoders recover of each class at each layer, and which layers that tells to retrain for which unknown class.

Sharma, with Cottrell, "Better techniques for transfer learning", experiment 3, compares raw errors of reconstruction,
and would retrain a layer for the unknown classes whose error exceeds that of the known ones. But a raw error is larger
for a class with more ink, whatever the net makes of it. Of each class's images let e be the squared error of a layer's
decoders, b that of the class's mean image, and d that of decoders that see the image itself, summed over images:

    raw error         e per image: the paper's, in squared pixels from 0 to 1
    normalised error  e / b: the share of what differs within the class that is lost; 1 for the class's mean image
    excess error      (e - d) / (b - d): the same, 0 where the layer leaves as much as the image itself does

All images are held out: no decoder has learnt from them. Intervals are from a bootstrap that draws anew both the
decoders and the images of each class, as decoders have the images in common (Owen 2007,
https://arxiv.org/abs/0712.1111); they are given the net.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from layerwise.claims import FEWEST_CLUSTERS
from layerwise.errors import RepresentationError
from layerwise.layers import Layer, in_eval
from layerwise.probes.about import About
from layerwise.probes.decoder import Lesson, Pictures, Training, train_decoders
from layerwise.probes.inversion import ClassError, Images, Progress, in_pixels, ticker
from layerwise.probes.truncated import activations, truncated
from layerwise.randomness import generator

Values = Float[np.ndarray, " values"]
Drawings = Float[Tensor, "classes channels height width"]

DRAWS = 2000  # of the bootstrap
IMAGE = "image"  # in place of a layer's name: the decoders that see the image itself

RULE = (
    "retrain if the 95 % interval of the class's error less the greatest error of a known class lies above 0, keep if "
    f"below; fewer than {FEWEST_CLUSTERS} decoders, or as few images of a class, decide nothing"
)
SOURCE = "Sharma, experiment 3"
ABOUT = {
    "raw_error": About(
        "The squared error, summed over an image's pixels from 0 to 1, of a decoder trained on the known classes: what "
        "it cannot draw from the layer's activations.",
        "It grows with a class's ink and variety, so that a 1 looks known and an 8 unknown to any net.",
        SOURCE,
    ),
    "normalised_error": About(
        "The raw error as a share of that of the class's own mean image: the share of what differs within the class "
        "that is lost.",
        "It compares classes by their variance only: one whose variety is in fine detail is harder for every net, also "
        "an untrained one; and it judges the decoder as much as the layer.",
        "Sharma, experiment 3, normalised here",
    ),
    "excess_error": About(
        "The normalised error from 0, for decoders that see the image itself, to 1, for the class's mean image.",
        "Decoders that had too few steps are far from 0 for every layer, and the difference of two errors is noisy.",
        "Sharma, experiment 3, normalised here",
    ),
    "minus_untrained": About(
        "The normalised error at a trained net's layer less that at an untrained net's: what training has lost of the "
        "class, or kept.",
        "It is given these two nets; and an untrained net's filters may lose less than trained ones that serve.",
        "Sharma, experiment 2 (its third column), for decoders",
    ),
    "advice": About(
        "How far an unknown class's normalised error exceeds that of every known class, and so whether the layer is to "
        f"be retrained for it. The rule: {RULE}.",
        "Decoders learn the known classes whatever the net does, so that an untrained net may get the same advice: "
        "compare it; and what a decoder cannot draw may be of no use to the classifier.",
        "Sharma, experiment 3; the paper never tested it",
    ),
}
Quantity = Literal["raw_error", "normalised_error", "excess_error"]
QUANTITIES: tuple[Quantity, ...] = ("raw_error", "normalised_error", "excess_error")

Verdict = Literal["retrain", "keep", "undecided"]


@dataclass(frozen=True, eq=False)
class Case:
    """A net, and the classes that it knows: those that its decoders learn from."""

    name: str
    net: nn.Module
    known: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Recovered:
    """The squared error of each held-out image, summed over its pixels, at one layer of a case."""

    layer: str
    known: tuple[int, ...]
    labels: Int[Tensor, " examples"]
    of_layer: Float[Tensor, "decoders examples"]
    of_image: Float[Tensor, "others examples"]  # of decoders that see the image itself
    of_mean: Float[Tensor, " examples"]  # of the mean of the class's held-out images
    drawings: Drawings  # the first decoder's, of the first held-out image of each class


@dataclass(frozen=True)
class Advice:
    """What to do with a layer for an unknown class, by `RULE`; null, and `why`, where that cannot be computed."""

    layer: str
    label: int
    beyond: float | None  # the class's error less the greatest of a known class
    interval: tuple[float, float] | None
    verdict: Verdict
    decoders: int
    images: int  # of the class, or of the known one that has fewest
    why: str = ""


Found = Tensor | RepresentationError


def recover(
    cases: Sequence[Case],
    found: Sequence[Layer],
    images: Images,
    labels: Int[Tensor, " examples"],
    learnt: Bool[Tensor, " examples"],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    at: Sequence[int] | None = None,
    seeds: int = FEWEST_CLUSTERS,
    training: Training | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> dict[tuple[str, str], Recovered | RepresentationError]:
    """Train decoders for layers of nets of one architecture; gives, by case and layer, what they recover, or why not.

    Decoders learn from the images marked `learnt` that are of a case's known classes, and are judged on all those not
    so marked. The decoders of a layer, `seeds` for each case, are trained as one computation. The nets are left as they
    were. `images` are scaled as the nets take them; `mean` and `std` are those of their pixels, `at` the numbers of the
    layers from 1. Held in memory: one layer's activations of all images, for all cases and one more; where that is more
    than `memory` bytes, the layer has this as its reason. Raises RepresentationError where a case has no image to learn
    from, or none is held out.
    """
    training, numbers = training or Training(), range(1, len(found) + 1) if at is None else at
    if learnt.all():
        raise RepresentationError(f"all {len(learnt)} images are marked as learnt; hold some out")
    school = _School(
        [
            (case, (learnt & torch.isin(labels, torch.tensor(case.known).to(labels))).nonzero().flatten())
            for case in cases
        ],
        in_pixels(images, mean, std),
        ~learnt,
        firsts(labels[~learnt]),
        seeds,
        training,
        ticker(progress, (len(numbers) + 1) * training.steps),
    )
    of_mean = about_means(school.pictures[~learnt], labels[~learnt])
    of_image = school.judged([images] * len(cases))
    made: dict[tuple[str, str], Recovered | RepresentationError] = {}
    most = None if memory is None else memory // (len(cases) + 1)
    for number in numbers:
        name = found[number - 1].name
        of_layer = school.judged([_seen(case.net, found, number, images, most) for case in cases])
        for case, layer, image in zip(cases, of_layer, of_image, strict=True):
            if isinstance(layer, _Judged) and isinstance(image, _Judged):
                made[case.name, name] = Recovered(
                    name, case.known, labels[~learnt], layer.errors, image.errors, of_mean, layer.drawings
                )
            else:
                made[case.name, name] = next(one for one in (layer, image) if isinstance(one, RepresentationError))
    return made


def firsts(labels: Int[Tensor, " examples"]) -> Int[Tensor, " classes"]:
    """The position of the first image of each class, classes by their numbers."""
    return torch.stack([(labels == label).nonzero()[0, 0] for label in torch.unique(labels)])


@dataclass(frozen=True, eq=False)
class _Judged:
    """What became of decoders."""

    errors: Float[Tensor, "decoders examples"]  # squared, of held-out images
    drawings: Drawings


@dataclass(frozen=True, eq=False)
class _School:
    """What the decoders of all layers have in common."""

    cases: Sequence[tuple[Case, Int[Tensor, " rows"]]]  # each with the examples that its decoders learn from
    pictures: Pictures
    held_out: Bool[Tensor, " examples"]
    drawn: Int[Tensor, " drawings"]  # positions among those held out
    seeds: int
    training: Training
    tick: Callable[[], None]

    def judged(self, seen: Sequence[Found]) -> list[_Judged | RepresentationError]:
        """For each case, given what its layer sees in the images, how far decoders get, or why they do not."""
        lessons = [
            Lesson(given, self.pictures, drawn, rows)
            for (_, rows), given in zip(self.cases, seen, strict=True)
            if isinstance(given, Tensor)
            for drawn in range(self.seeds)
        ]
        trained = iter(train_decoders(lessons, self.training, self.tick) if lessons else [])
        return [
            self._judged(given, [next(trained) for _ in range(self.seeds)]) if isinstance(given, Tensor) else given
            for given in seen
        ]

    @torch.no_grad()
    def _judged(
        self, seen: Tensor, decoders: Sequence[nn.Module | RepresentationError]
    ) -> _Judged | RepresentationError:
        given, aims = seen[self.held_out], self.pictures[self.held_out]
        able = [decoder for decoder in decoders if isinstance(decoder, nn.Module)]
        if not able:
            return RepresentationError(f"all {self.seeds} decoders diverged; take a smaller rate")
        errors = [squared_errors(decoder, given, aims) for decoder in able]
        return _Judged(torch.stack(errors), able[0](given[self.drawn]))


def _seen(net: nn.Module, found: Sequence[Layer], number: int, images: Images, most: int | None) -> Found:
    """What the layer gives, or why it gives nothing that a decoder could learn from."""
    with in_eval(net):
        try:
            return activations(truncated(net, found, number), images, most)
        except RepresentationError as error:
            return error


@torch.no_grad()
def squared_errors(
    decoder: nn.Module, given: Float[Tensor, "examples ..."], pictures: Pictures, at_once: int = 500
) -> Float[Tensor, " examples"]:
    """How far a decoder's drawing is from each picture, squared, summed over pixels."""
    pairs = zip(torch.split(given, at_once), torch.split(pictures, at_once), strict=True)
    return torch.cat([(decoder(some) - aims).square().sum((1, 2, 3)) for some, aims in pairs])


def about_means(pictures: Pictures, labels: Int[Tensor, " examples"]) -> Float[Tensor, " examples"]:
    """The squared error of each class's mean picture, summed over pixels."""
    errors = pictures.new_zeros(len(pictures))
    for label in set(labels.tolist()):
        own = labels == label
        errors[own] = (pictures[own] - pictures[own].mean(0)).square().sum((1, 2, 3))
    return errors


# Tables.


def by_class(recovered: Recovered) -> list[ClassError]:
    """Each quantity for each class, with 95 % intervals over decoders and held-out images, given the net."""
    made = []
    for quantity in QUANTITIES:
        for label, values in _drawn(recovered, quantity).items():
            images = int((recovered.labels == label).sum())
            if (bounds := _interval(values)) is None:
                why = f"the {images} held-out images of class {label} do not differ, or the decoders had too few steps"
                made.append(ClassError(recovered.layer, label, quantity, None, None, images, why))
            else:
                made.append(ClassError(recovered.layer, label, quantity, float(values[0]), bounds, images))
    return made


def minus_untrained(trained: Recovered, untrained: Recovered) -> list[ClassError]:
    """The normalised error at a layer of a trained net less that of an untrained net, per class.

    Below 0 training has kept more of the class. The same held-out images and seeds of decoders are drawn for both.
    """
    one, other = _drawn(trained, "normalised_error"), _drawn(untrained, "normalised_error")
    made = []
    for label, values in one.items():
        images = int((trained.labels == label).sum())
        bounds = _interval(values - other[label])
        difference = float(values[0] - other[label][0]) if bounds else None
        why = "" if bounds else f"the {images} held-out images of class {label} do not differ"
        made.append(ClassError(trained.layer, label, "minus_untrained", difference, bounds, images, why))
    return made


def advise(recovered: Recovered, quantity: Quantity = "normalised_error") -> list[Advice]:
    """What to do with the layer for each unknown class, by `RULE`; the paper's own rule is that of `raw_error`.

    In each draw of the bootstrap the known class of the greatest error is found anew. Raises RepresentationError where
    no image of a known class is held out.
    """
    drawn = _drawn(recovered, quantity)
    known = [values for label, values in drawn.items() if label in recovered.known]
    if not known:
        raise RepresentationError(f"no image of the known classes {list(recovered.known)} is held out; hold some out")
    greatest = np.stack(known).max(0)
    sizes = {label: int((recovered.labels == label).sum()) for label in drawn}
    fewest = min(size for label, size in sizes.items() if label in recovered.known)
    made = []
    for label, values in drawn.items():
        if label not in recovered.known:
            beyond, images, decoders = values - greatest, min(sizes[label], fewest), len(recovered.of_layer)
            bounds = _interval(beyond)
            made.append(
                Advice(
                    recovered.layer, label, float(beyond[0]) if bounds else None, bounds,
                    decide(bounds, decoders, images), decoders, images,
                    "" if bounds else f"the {quantity} of class {label} or of a known class cannot be computed",
                )
            )  # fmt: skip
    return made


def decide(bounds: tuple[float, float] | None, decoders: int, images: int) -> Verdict:
    """`RULE`, for the interval of what a class's error is beyond that of every known class."""
    if bounds is None or min(decoders, images) < FEWEST_CLUSTERS:
        return "undecided"
    return "retrain" if bounds[0] > 0 else "keep" if bounds[1] < 0 else "undecided"


def _drawn(recovered: Recovered, quantity: Quantity) -> dict[int, Values]:
    """For each class the quantity as measured, and then in each draw of the bootstrap."""
    labels, of_mean = recovered.labels.cpu().numpy(), _array(recovered.of_mean)
    of_layer, of_image = _array(recovered.of_layer), _array(recovered.of_image)
    layer_weights, image_weights = (_weights(len(errors), "decoders") for errors in (of_layer, of_image))
    made = {}
    for label in sorted(set(labels.tolist())):
        own = labels == label
        images = _weights(int(own.sum()), "images", label)  # (1 + draws, images)
        e = ((layer_weights @ of_layer[:, own]) * images).sum(1)
        d = ((image_weights @ of_image[:, own]) * images).sum(1)
        made[label] = _quantity(quantity, e, d, images @ of_mean[own])
    return made


def _quantity(quantity: Quantity, e: Values, d: Values, b: Values) -> Values:
    """The quantity from the mean errors of a layer's decoders, of those of the image, and of the class's mean image."""
    if quantity == "raw_error":
        return e
    above, below = (e, b) if quantity == "normalised_error" else (e - d, b - d)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _weights(size: int, *purpose: str | int) -> Float[np.ndarray, "draws size"]:
    """Weights of sum 1: first all alike, then as often as each is drawn, with replacement."""
    drawn = generator("recovery", *purpose).multinomial(size, np.full(size, 1 / size), DRAWS)
    return np.concatenate([np.full((1, size), 1 / size), drawn / size])


def _array(values: Tensor) -> Float[np.ndarray, "*axes"]:
    return values.detach().cpu().double().numpy()


def _interval(values: Values) -> tuple[float, float] | None:
    """The middle 95 % of the draws, which follow the measured value; null where one of them is no number."""
    if not np.isfinite(values).all():
        return None
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return float(low), float(high)
