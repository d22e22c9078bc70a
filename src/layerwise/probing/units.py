"""Which units of each layer matter: saliency to the loss, and information about the class."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from layerwise.information import information, unit_activations
from layerwise.layers import Layer
from layerwise.probing.look import Look
from layerwise.saliency import ABOUT as EXACT
from layerwise.saliency import optimal_brain_damage, read_out, taylor
from layerwise.units import Units, units

MOST = 200  # images, and ...
COLUMNS = 4  # ... random mixtures of the outputs: each takes a backward pass per layer
ABOUT = {
    **EXACT,
    "optimal_brain_damage": replace(
        EXACT["optimal_brain_damage"],
        misleads=f"{EXACT['optimal_brain_damage'].misleads} Of more than {COLUMNS} classes it is an estimate, from "
        f"{COLUMNS} random mixtures of the outputs for each image.",
    ),
}


def saliency(look: Look) -> None:
    """Optimal Brain Damage and Taylor saliency of each unit, under the best linear head for the classes in question."""
    images, labels = _mixed(look)
    images, labels = images[:MOST], labels[:MOST]
    columns = COLUMNS if int(labels.max()) >= COLUMNS else None
    codes = torch.eye(int(labels.max()) + 1)[labels]
    with look.unknown_is_unknown("optimal_brain_damage", None):
        net = read_out(look.subject.net, look.subject.found, images, codes)
        _each(look, "optimal_brain_damage", net, lambda own: optimal_brain_damage(net, own, images, codes, columns))
        _each(look, "taylor", net, lambda own: taylor(net, own, images, codes))


def informative(look: Look) -> None:
    """Mutual information of each unit's mean activation with the class, in nats."""
    images, labels = _mixed(look)
    net = look.subject.net
    for layer, own in _units(look, "information", net, look.subject.found):
        with look.unknown_is_unknown("information", layer):
            found = information(unit_activations(net, own, images), labels)
            lows, highs = found.interval
            for unit, (value, low, high) in enumerate(zip(found.nats, lows, highs, strict=True)):
                look.note("information", float(value), layer, unit=unit, low=float(low), high=float(high))


def _each(look: Look, quantity: str, net: nn.Module, measure: Callable[[Units], Float[Tensor, " units"]]) -> None:
    *below, head = look.subject.found
    look.note(quantity, None, head.name, reason="the head is replaced by the best linear one for this loss")
    for layer, own in _units(look, quantity, net, below):
        with look.unknown_is_unknown(quantity, layer):
            for unit, value in enumerate(measure(own).tolist()):
                look.note(quantity, value, layer, unit=unit)


def _units(look: Look, quantity: str, net: nn.Module, found: Sequence[Layer]) -> Iterator[tuple[str, Units]]:
    for done, layer in enumerate(found, 1):
        with look.unknown_is_unknown(quantity, layer.name):
            yield layer.name, units(net, layer)
        look.progress(done, len(found))


def _mixed(look: Look) -> tuple[Float[Tensor, "some ..."], Int[Tensor, " some"]]:
    """Probed images of the classes that a transfer would be to, mixed, with labels from 0 without gaps."""
    rows = torch.nonzero(look.subject.groups[look.subject.target]).flatten()
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(look.subject.seed))]
    labels = look.subject.labels[rows]
    return look.subject.images[rows], torch.unique(labels, return_inverse=True)[1]
