"""Drift: how far each layer has moved from its start at chosen steps of training, and which way its gradient pulls.

Grand, Kahn and Reimers 2016, section 3.3, plot the Euclidean distance of each layer's weights and biases from their
start. That grows with the number of weights, whatever a layer does: it is given beside three readings that do not, and
beside the similarity of what the layer makes of images to what it makes of them in the end.

A layer's tensors are told apart as *weights* (whatever is none of the following: filters, matrices, and also the
multiplier per map of a trainable sub-sampling, class tokens, positions, the slopes of a PReLU, the gains of a layer
scale), *biases*, *norms* (scale and shift of a normalisation) and *buffers* (real numbers of the state that no gradient
moves, such as the running mean and variance of a batch norm; its counter of batches is no part of any distance). *all*
is weights, biases and norms.
"""

import copy
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from layerwise.errors import RepresentationError
from layerwise.feed import Pool
from layerwise.layers import Layer
from layerwise.probes.about import About
from layerwise.probes.activations import activations
from layerwise.probes.similarity import linear_cka
from layerwise.start import State

GRAND = "Grand, Kahn and Reimers 2016, section 3.3"
LEE = "Lee et al. 2022, section 5, https://arxiv.org/abs/2210.11466"
ABOUT = {
    "distance": About(
        "Euclidean distance of the layer's tensors from what they were before the first update.",
        "Grows with the number of weights: a wide layer is far from its start though each weight hardly moved.",
        f"{GRAND}: the measure of their figure",
    ),
    "distance_per_root_size": About(
        "The same per square root of the number of weights: the root mean square change of a weight.",
        "Layers whose weights are drawn small have small changes that can matter as much.",
        f"{GRAND}, with the number of weights taken out",
    ),
    "distance_to_start_norm": About(
        "The same relative to the norm of the start: how much of itself the layer has given up.",
        "Before a batch norm the scale of weights means nothing; weight decay alone moves them.",
        f"{GRAND}, with the scale of the start taken out",
    ),
    "distance_to_final": About(
        "The same relative to the distance in the end: how much of its own way the layer has gone; 1 at the last step.",
        "Says when a layer moves, not how far; a wandering layer reaches 1 early and may pass it.",
        f"{GRAND}, each layer on its own scale",
    ),
    "cka_to_final": About(
        "Linear CKA of what the layer makes of the images with what it makes of them after the last step.",
        "A layer changes with those below it, even if its own weights stay; 1 is equal up to rotation and scale only.",
        "Kornblith et al. 2019, eq. 4, https://arxiv.org/abs/1905.00414; debiased by Song et al. 2012, eq. 5",
    ),
    "gradient_norm": About(
        "Norm of the gradient of the mean loss over the examples.",
        "Grows with the number of weights and with the loss; says nothing of a layer whose input carries no signal.",
        LEE,
    ),
    "relative_gradient_norm": About(
        "The gradient's norm relative to the weights' own, which Auto-RGN makes the layer's learning rate.",
        "Large for weights that are nearly 0, and before a batch norm it depends on the weights' arbitrary scale.",
        f"{LEE}: RGN = |g| / |w|",
    ),
    "signal_to_noise": About(
        "How far examples agree on the way to go: a weight's squared mean gradient over its variance, averaged.",
        "Pure noise reads 1 / examples, not 0; a few weights on which all examples agree carry the mean.",
        f"{LEE}: SNR = Avg over weights of Avg(g)^2 / Var(g), both over inputs (their code takes the variance over a "
        "tensor's first axis instead)",
    ),
    "silent": About(
        "Share of the weights whose gradient is 0 for each of the examples, as behind a dead ReLU.",
        "Depends on the examples: what is silent for some classes need not be for others.",
        "counted beside the signal-to-noise ratio, in which these weights are 0",
    ),
}
DISTANCES = ("distance", "distance_per_root_size", "distance_to_start_norm", "distance_to_final")
GRADIENTS = ("gradient_norm", "relative_gradient_norm", "signal_to_noise", "silent")

MEMORY = 2**28  # bytes for the gradients of single examples, or for activations
MOST_AT_ONCE = 32  # examples: more make the activations large, and nothing faster

Loss = Callable[[Tensor, Tensor], Tensor]  # of outputs (examples, ...) and classes (examples): their mean loss


@dataclass(frozen=True)
class Reading:
    """One quantity of one part of a layer; where it cannot be computed the value is null, and `reason` says why."""

    step: int | None  # optimiser steps taken; null where that is not known
    layer: str
    number: int
    part: str  # weights, biases, norms, buffers, all; activations for what the layer makes of images
    quantity: str
    value: float | None
    reason: str = ""


@dataclass
class Watch:
    """Keeps copies of a net's state at some steps of training; give it to `train` as `observe`."""

    steps: Collection[int]
    states: dict[int, State] = field(default_factory=dict)

    def __call__(self, step: int, net: nn.Module) -> None:
        if step in self.steps:
            self.states[step] = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def parts(net: nn.Module, layer: Layer) -> dict[str, tuple[str, ...]]:
    """Names of the layer's tensors by the part they are; parts that it does not have are left out."""
    kept = net.state_dict()
    found: dict[str, list[str]] = {"weights": [], "biases": [], "norms": [], "buffers": []}
    for name in layer.parameters:
        found[_part(net, name)].append(name)
    found["buffers"] = [name for name in layer.buffers if name in kept and kept[name].is_floating_point()]
    return {part: tuple(names) for part, names in found.items() if names}


def distances(net: nn.Module, found: Sequence[Layer], states: Mapping[int, State]) -> list[Reading]:
    """How far each part of each layer is from its start at each step: `DISTANCES`, computed in float64.

    The first of the steps is the start and the last the end, at which the distance relative to the final one is 1.
    Raises RepresentationError where there are not two steps.
    """
    _ordered(states)
    return [
        reading
        for layer in found
        for part, names in parts(net, layer).items()
        for reading in _distances(layer, part, names, states)
    ]


def similarities(
    net: nn.Module,
    found: Sequence[Layer],
    states: Mapping[int, State],
    images: Pool,
    *,
    pooling: str = "flatten",
    debiased: bool = True,
    memory: int = MEMORY,
) -> list[Reading]:
    """Linear CKA of each layer's activations on these images at each step with those at the last step.

    The net is left as it is: a copy of it goes through the states. Debiased, because the flattened activations of a
    convolution are wider than there are images, which draws the plain estimate towards 1 for layers without any
    relation; it may be slightly below 0. The activations at two steps are held at a time, in files beyond `memory`
    bytes. Raises RepresentationError where there are not two steps.
    """
    steps = _ordered(states)
    walker = copy.deepcopy(net)

    def made(step: int) -> Mapping[str, Tensor]:
        walker.load_state_dict(states[step])
        return activations(walker, images, found=found, pooling=pooling, memory=memory // 2)

    def cka(here: Mapping[str, Tensor], layer: Layer) -> float:
        return float(linear_cka(here[layer.name], final[layer.name], debiased=debiased))

    def compared(step: int) -> list[Reading]:
        here = final if step == steps[-1] else made(step)
        return [_reading(step, layer, "activations", "cka_to_final", partial(cka, here, layer)) for layer in found]

    final = made(steps[-1])
    return [reading for step in steps for reading in compared(step)]


def gradients(
    net: nn.Module,
    found: Sequence[Layer],
    images: Float[Tensor, "examples ..."],
    classes: Int[Tensor, " examples"],
    loss: Loss = F.cross_entropy,
    *,
    step: int | None = None,
    memory: int = MEMORY,
) -> list[Reading]:
    """Norm and signal-to-noise ratio of each layer's gradient at the weights that the net has: `GRADIENTS`.

    In eval mode: in train mode, batch norm has no gradient of a single example. Variances are over examples, with
    n - 1; for batches of b the ratio is b times that. Single examples' gradients are held for as many examples as
    `memory` has room for, and at least one. Raises RepresentationError where there are not two examples.
    """
    if len(images) < 2:
        raise RepresentationError(f"{len(images)} example has no variance; give at least 2, better 100")
    moments = _moments(copy.deepcopy(net).eval(), images, classes, loss, memory)
    state = {name: parameter.detach() for name, parameter in net.named_parameters()}
    readings: list[Reading] = []
    for layer in found:
        by_part = {part: names for part, names in parts(net, layer).items() if part != "buffers"}
        for part, names in {**by_part, "all": layer.parameters}.items():
            if names:
                readings += _gradients(layer, part, step, _flat(state, names), *(_flat(m, names) for m in moments))
    return readings


def _part(net: nn.Module, name: str) -> str:
    """Which part of its layer a parameter is; one that is parametrised is what it stands for."""
    holder, _, tensor = re.sub(r"\.?parametrizations\.(\w+)\..*", r".\1", name).rpartition(".")
    if "Norm" in type(net.get_submodule(holder)).__name__:
        return "norms"
    return "biases" if re.search(r"(^|_)bias(_|$)", tensor) else "weights"


def _ordered(states: Mapping[int, State]) -> list[int]:
    if len(states) < 2:
        raise RepresentationError(f"drift needs a start and an end; the steps kept are {sorted(states)}")
    return sorted(states)


def _distances(layer: Layer, part: str, names: Sequence[str], states: Mapping[int, State]) -> Iterator[Reading]:
    steps, what = sorted(states), f"the {part} of layer {layer.number} '{layer.name}'"
    start = _flat(states[steps[0]], names)
    away = {step: torch.linalg.vector_norm(_flat(states[step], names) - start).item() for step in steps}
    sizes = torch.linalg.vector_norm(start).item(), away[steps[-1]]
    divisors = (1, math.sqrt(len(start)), *sizes)
    why = (
        "",
        "",
        "begin at 0, so no distance is relative to them; read distance_per_root_size",
        "end where they began, so there is no way to have gone part of; read distance_per_root_size",
    )
    for step in steps:
        for quantity, divisor, reason in zip(DISTANCES, divisors, why, strict=True):
            ratio = partial(_ratio, away[step], divisor, f"{what} at step {step}", f"{what} {reason}")
            yield _reading(step, layer, part, quantity, ratio)


def _gradients(
    layer: Layer,
    part: str,
    step: int | None,
    weights: Float[Tensor, " numbers"],
    mean: Float[Tensor, " numbers"],
    variance: Float[Tensor, " numbers"],
) -> Iterator[Reading]:
    what = f"the {'weights' if part == 'all' else part} of layer {layer.number} '{layer.name}'"
    size, length = (torch.linalg.vector_norm(numbers).item() for numbers in (weights, mean))
    silent = (mean == 0) & (variance == 0)
    computed: tuple[Callable[[], float], ...] = (
        partial(_ratio, length, 1, f"the gradient of {what}"),
        partial(_ratio, length, size, f"the gradient of {what}", f"{what} are 0; read gradient_norm"),
        partial(_signal_to_noise, mean, variance, silent, f"the gradient of {what}"),
        partial(_ratio, silent.double().mean().item(), 1, what),
    )
    for quantity, compute in zip(GRADIENTS, computed, strict=True):
        yield _reading(step, layer, part, quantity, compute)


def _signal_to_noise(
    mean: Float[Tensor, " numbers"], variance: Float[Tensor, " numbers"], silent: Bool[Tensor, " numbers"], what: str
) -> float:
    """The mean over weights of squared mean over variance, in which silent weights are 0."""
    if silent.all():
        raise RepresentationError(f"{what} is 0 for every example: neither signal nor noise; give other examples")
    if ((variance == 0) & ~silent).any():
        raise RepresentationError(f"{what} is partly the same for every example: no noise; give more, and other, ones")
    return _ratio(torch.where(silent, 0, mean.square() / torch.where(silent, 1, variance)).mean().item(), 1, what)


def _moments(
    net: nn.Module, images: Float[Tensor, "examples ..."], classes: Int[Tensor, " examples"], loss: Loss, memory: int
) -> tuple[State, State]:
    """Mean and variance over the examples of each parameter's gradient, in float64.

    Sums are of differences to the first example's gradient: equal gradients then have a variance of exactly 0.
    """
    weights = {name: parameter.detach() for name, parameter in net.named_parameters()}
    at_once = max(1, min(MOST_AT_ONCE, memory // (16 * sum(weight.numel() for weight in weights.values()))))
    with sdpa_kernel(SDPBackend.MATH):  # the attention that can be mapped over examples
        each = _each(net, weights, images[:2], classes[:2], loss)
        first = {name: g[0].double() for name, g in each(images[:1], classes[:1]).items()}
        sums = {name: torch.zeros_like(g) for name, g in first.items()}
        squares = {name: torch.zeros_like(g) for name, g in first.items()}
        for some, labels in zip(torch.split(images, at_once), torch.split(classes, at_once), strict=True):
            for name, g in each(some, labels).items():
                away = g.double() - first[name]
                sums[name] += away.sum(0)
                squares[name] += away.square().sum(0)
    n = len(images)
    mean = {name: first[name] + total / n for name, total in sums.items()}
    variance = {name: (squares[name] - total.square() / n).clamp(min=0) / (n - 1) for name, total in sums.items()}
    return mean, variance


def _each(
    net: nn.Module, weights: State, images: Float[Tensor, "two ..."], classes: Int[Tensor, " two"], loss: Loss
) -> Callable[[Tensor, Tensor], State]:
    """The gradients of single examples, (examples, ...) by the parameter's name; tried on two of them.

    One by one where the forward pass depends on what the numbers are, so that it cannot be mapped over examples.
    """
    buffers = dict(net.named_buffers())

    def one(weights: State, image: Tensor, label: Tensor) -> Tensor:
        return loss(functional_call(net, {**weights, **buffers}, (image[None],)), label[None])

    def in_turn(images: Tensor, classes: Tensor) -> State:
        made = [grad(one)(weights, image, label) for image, label in zip(images, classes, strict=True)]
        return {name: torch.stack([g[name] for g in made]) for name in weights}

    mapped = partial(vmap(grad(one), in_dims=(None, 0, 0)), weights)
    try:
        mapped(images, classes)
    except RuntimeError:
        return in_turn
    return mapped


def _reading(step: int | None, layer: Layer, part: str, quantity: str, compute: Callable[[], float]) -> Reading:
    try:
        return Reading(step, layer.name, layer.number, part, quantity, compute())
    except RepresentationError as error:
        return Reading(step, layer.name, layer.number, part, quantity, None, str(error))


def _flat(state: Mapping[str, Tensor], names: Sequence[str]) -> Float[Tensor, " numbers"]:
    return torch.cat([state[name].double().flatten() for name in names])


def _ratio(value: float, divisor: float, what: str, no_divisor: str = "") -> float:
    if not (math.isfinite(value) and math.isfinite(divisor)):
        raise RepresentationError(f"{what}: no longer numbers; look at an earlier step")
    if divisor == 0:
        raise RepresentationError(no_divisor)
    return value / divisor
