"""Inversion: images sought by gradient descent until a layer sees in them what it saw in the images given.

What the search leaves different between an image and its reconstruction is what the layer has lost, or what descent
could not find. Sharma, with Cottrell, "Better techniques for transfer learning", experiment 2: plain descent from a
random image on the squared distance of activations. Mahendran and Vedaldi 2015, section 2,
https://arxiv.org/abs/1412.0035: the same relative to the activations' squared norm, with priors on the image.

Every image has a search of its own. All are computed together, and none touches another, also when one diverges.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor, nn

from layerwise.errors import RepresentationError
from layerwise.layers import Layer, in_eval
from layerwise.probes.about import About
from layerwise.probes.truncated import activations, truncated
from layerwise.randomness import generator

Images = Float[Tensor, "examples channels height width"]
PerImage = Float[Tensor, " examples"]
Progress = Callable[[int, int], None]  # steps taken, and in all

ADAM_RATE = 0.05  # in units of the net's input
LOOKS = 12  # at the gradient, to learn how long a step may be
NORM_POWER = 6  # Mahendran and Vedaldi 2015, section 2: alpha; their beta is 2 here

SOURCE = "Mahendran and Vedaldi 2015, section 2; Sharma, experiment 2"
ABOUT = {
    "activation_error": About(
        "How far the layer's activations of the image found are from those of the image given, as a share of the "
        "latter's squared norm: how well the search succeeded.",
        "A small one does not mean that the image was recovered, and a large one means that descent was too short or "
        "got stuck, not that the layer knows little.",
        SOURCE,
    ),
    "image_error": About(
        "The mean squared difference, per pixel on a scale of 0 to 1, of the image found from the image given: what "
        "the layer lost, and what the search did not find.",
        "It holds what is left of the random start wherever the layer does not look, it is larger for classes with "
        "more ink, and steps and rate move it as much as the layer does.",
        SOURCE,
    ),
    "relative_error": About(
        "The image error as a share of that of the mean of all images given: below 1 the image found is better than "
        "no image of one's own.",
        "Classes that lie near the mean image have a small denominator.",
        SOURCE,
    ),
    "minus_untrained": About(
        "The image error from a trained net's activations less that from an untrained net's, image by image and from "
        "the same starts: above 0 training has lost of the image, below 0 it is the easier to find.",
        "It is given these two nets; and descent that was too short for one of them is read as what the other keeps.",
        "Sharma, experiment 2 (its third column)",
    ),
}
QUANTITIES = ("activation_error", "image_error", "relative_error")


@dataclass(frozen=True)
class Search:
    """How images are sought; as it stands, plainly as Sharma did.

    `rate` is that of a descent on the activation error. Where it is not given it is `ADAM_RATE` for Adam, and for
    plain descent one over the greatest curvature met around each image, with which descent does not diverge where the
    layer is linear. The weights of the priors are Mahendran and Vedaldi's lambdas for a mean over pixels.
    """

    steps: int = 500
    optimiser: Literal["descent", "adam"] = "descent"
    rate: float | None = None
    total_variation: float = 0.0
    norm: float = 0.0
    seed: int = 0
    at_once: int = 500  # images

    def __post_init__(self) -> None:
        if self.optimiser not in ("descent", "adam"):
            raise RepresentationError(f"'{self.optimiser}' is no optimiser of an inversion; take descent or adam")
        if self.steps < 0 or self.at_once < 1 or (self.rate is not None and self.rate <= 0):
            raise RepresentationError(f"an inversion needs steps >= 0, rate > 0 and at_once >= 1, not {self}")

    def prior(self, x: Images) -> PerImage:
        """What is added to each image's activation error."""
        cost = x.new_zeros(len(x))
        if self.total_variation:
            cost = cost + self.total_variation * total_variation(x)
        if self.norm:
            cost = cost + self.norm * x.abs().pow(NORM_POWER).mean((1, 2, 3))
        return cost


@dataclass(frozen=True, eq=False)
class Inverted:
    """What a search found for each image from one layer's activations: the best it met, and how far off that is."""

    layer: str
    pictures: Images  # in pixels: 0 to 1, and beyond where the search went there
    activation_error: PerImage  # relative to the squared norm of the activations sought
    image_error: PerImage  # mean squared, of pixels
    mean_error: PerImage  # the same of the mean of all images given, for comparison
    diverged: Bool[Tensor, " examples"]  # ended above where it began, or at no number: left out of all tables


@dataclass(frozen=True)
class ClassError:
    """The mean of a quantity over the images of one class at one layer, with a 95 % interval given the net."""

    layer: str
    label: int
    quantity: str
    value: float | None  # null where it cannot be computed: `why` says why
    interval: tuple[float, float] | None
    images: int  # that went in
    why: str = ""


def invert(
    net: nn.Module,
    found: Sequence[Layer],
    images: Images,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    at: Sequence[int] | None = None,
    search: Search | None = None,
    progress: Progress | None = None,
) -> list[Inverted]:
    """Reconstruct images, scaled as the net takes them, from their activations at some layers, or at all layers.

    `at` are numbers of layers from 1; `mean` and `std` are those of the net's pixels. The starts come from the search's
    seed and an image's place: the same for all layers and nets, so that these are compared in pairs.
    Where the net cannot be cut after a layer, its activations are those of the layer's last module. The net is left
    as it was. Raises RepresentationError where a layer does not give one tensor, or images are not finite.
    """
    search = search or Search()
    if broken := int((~images.isfinite()).sum()):
        raise RepresentationError(f"{broken} pixels of the images are not finite; remove these images")
    start = random_images(images, mean, std, search.seed)
    numbers = range(1, len(found) + 1) if at is None else at
    tick = ticker(progress, len(numbers) * search.steps * -(-len(images) // search.at_once))
    aims = in_pixels(images, mean, std)
    mean_error = (aims.mean(0) - aims).square().mean((1, 2, 3))
    made = []
    for number in numbers:
        with in_eval(net):
            x, errors, diverged = seek(truncated(net, found, number), images, start, search, tick)
        pixels = in_pixels(x, mean, std)
        image_error = (pixels - aims).square().mean((1, 2, 3))
        made.append(Inverted(found[number - 1].name, pixels, errors, image_error, mean_error, diverged))
    return made


def ticker(progress: Progress | None, total: int) -> Callable[[], None]:
    """To be called after every step."""
    steps = count(1)
    return lambda: progress(next(steps), total) if progress else None


def seek(
    first: Callable[[Images], Any], images: Images, start: Images, search: Search, tick: Callable[[], None]
) -> tuple[Images, PerImage, Bool[Tensor, " examples"]]:
    """The images found from the start, their activation errors, and which searches diverged, some images at a time."""
    chunks = zip(torch.split(images, search.at_once), torch.split(start, search.at_once), strict=True)
    made = [_Seeking(first, *chunk, search).run(tick) for chunk in chunks]
    found, errors, diverged = (torch.cat(parts) for parts in zip(*made, strict=True))
    return found, errors, diverged


class _Seeking:
    """The search for some images from one layer's activations."""

    def __init__(self, first: Callable[[Images], Any], images: Images, start: Images, search: Search) -> None:
        self.first, self.images, self.start, self.search = first, images, start, search
        self.aims = activations(first, images).flatten(1)
        energy = self.aims.square().sum(1)
        self.energy = torch.where(energy > 0, energy, 1)  # a layer that sees nothing in an image has nothing to miss

    def costs(self, x: Images) -> tuple[PerImage, PerImage, Images]:
        """Activation error, the same with the priors, and the gradient of the latter, of each image."""
        x = x.detach().requires_grad_()
        errors = (self.first(x.clone()).flatten(1) - self.aims).square().sum(1) / self.energy
        costs = errors + self.search.prior(x)
        (gradient,) = torch.autograd.grad(costs.sum(), x)
        return errors.detach(), costs.detach(), gradient

    def run(self, tick: Callable[[], None]) -> tuple[Images, PerImage, Bool[Tensor, " examples"]]:
        x = self.start.clone()
        update = self._update(x)
        errors, first, gradient = self.costs(x)
        best, lowest, closest, costs = x.clone(), first, errors, first
        for _ in range(self.search.steps):
            usable = wide(costs.isfinite() & gradient.flatten(1).isfinite().all(1))
            update(torch.where(usable, gradient, 0))
            errors, costs, gradient = self.costs(x)
            better = costs < lowest
            best = torch.where(wide(better), x, best)
            lowest, closest = torch.where(better, costs, lowest), torch.where(better, errors, closest)
            tick()
        diverged = ~((costs <= first) & costs.isfinite())
        return best, closest, diverged

    def _update(self, x: Images) -> Callable[[Images], Any]:
        """How x is moved along a gradient."""
        if self.search.optimiser == "descent":
            rate = self._longest_steps() if self.search.rate is None else self.search.rate
            return lambda gradient: x.sub_(rate * gradient)
        adam = torch.optim.Adam([x], lr=self.search.rate or ADAM_RATE)

        def step(gradient: Images) -> None:
            x.grad = gradient
            adam.step()

        return step

    def _longest_steps(self) -> Float[Tensor, "examples 1 1 1"]:
        """One over the greatest curvature of each image's cost, as seen as far from the image as the start is.

        Power iteration on the change of the gradient; exact where the layer is linear.
        """
        _, _, at_aim = self.costs(self.images)
        away = self.start - self.images
        distance = away.flatten(1).norm(dim=1)
        curvature = torch.zeros_like(distance)
        for _ in range(LOOKS):
            change = self.costs(self.images + away)[2] - at_aim
            size = change.flatten(1).norm(dim=1)
            curvature = torch.maximum(curvature, size / distance)
            away = torch.where(wide(size > 0), change * wide(distance / size), away)
        return wide(torch.where(curvature > 0, 1 / curvature, 0))


def wide(values: Tensor) -> Tensor:
    """One value per image, to go with images."""
    return values.view(-1, 1, 1, 1)


def total_variation(x: Images) -> PerImage:
    """The squared differences of neighbouring pixels, across and down, as a mean over pixels.

    Mahendran and Vedaldi 2015, section 2, with beta = 2.
    """
    down, across = x.diff(dim=2).square().sum((1, 2, 3)), x.diff(dim=3).square().sum((1, 2, 3))
    return (down + across) / x[0].numel()


def random_images(like: Images, mean: Sequence[float], std: Sequence[float], seed: int) -> Images:
    """Images whose pixels are uniform in 0 to 1, scaled as the net takes them; each depends on its place only."""
    drawn = torch.from_numpy(generator("inversion", "start", seed).random(tuple(like.shape))).to(like)
    return (drawn - _channels(mean, like)) / _channels(std, like)


def in_pixels(images: Images, mean: Sequence[float], std: Sequence[float]) -> Images:
    """Images that were scaled as a net takes them, in pixels from 0 to 1."""
    return images * _channels(std, images) + _channels(mean, images)


def _channels(values: Sequence[float], like: Images) -> Float[Tensor, "channels 1 1"]:
    if len(values) != like.shape[1]:
        raise RepresentationError(f"mean and std have {len(values)} channels, the images {like.shape[1]}; give as many")
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


def by_class(inverted: Sequence[Inverted], labels: Int[Tensor, " examples"]) -> list[ClassError]:
    """Each of `QUANTITIES` for each layer and class, over the images whose search did not diverge."""
    made = []
    for one in inverted:
        for label in sorted(set(labels.tolist())):
            kept = (labels == label) & ~one.diverged
            scale = one.mean_error[kept].mean()
            for quantity in QUANTITIES:
                values = one.activation_error if quantity == "activation_error" else one.image_error
                values = values / scale if quantity == "relative_error" else values
                made.append(_class_error(one.layer, label, quantity, values[kept]))
    return made


def minus_untrained(
    trained: Sequence[Inverted], untrained: Sequence[Inverted], labels: Int[Tensor, " examples"]
) -> list[ClassError]:
    """The image error from a trained net less that from an untrained one, per layer and class, image by image.

    Below 0 the trained net's activations are the easier to invert. Both are to come from one seed.
    """
    made = []
    for one, other in zip(trained, untrained, strict=True):
        for label in sorted(set(labels.tolist())):
            kept = (labels == label) & ~one.diverged & ~other.diverged
            values = (one.image_error - other.image_error)[kept]
            made.append(_class_error(one.layer, label, "minus_untrained", values))
    return made


def _class_error(layer: str, label: int, quantity: str, values: PerImage) -> ClassError:
    n = len(values)
    if n == 0:
        why = f"the search diverged for every image of class {label}; take a smaller rate"
        return ClassError(layer, label, quantity, None, None, 0, why)
    if not values.isfinite().all():
        why = f"the images of class {label} are the mean of all images; give images that differ"
        return ClassError(layer, label, quantity, None, None, n, why)
    mean = values.mean().item()
    half = float(stats.t.ppf(0.975, n - 1)) * values.std().item() / n**0.5 if n > 1 else None
    return ClassError(layer, label, quantity, mean, None if half is None else (mean - half, mean + half), n)
