"""The reference trainer: one run after another, each on one thread, as plainly as it can be written.

Every faster way to train (see `layerwise.execute`) gives what this gives.

Frozen is a contract: parameters and buffers of a frozen layer are byte-equal before and after. The optimiser does not
hold them (so neither momentum nor weight decay moves them), no gradient reaches them, and the whole layer, its batch
norm and dropout included, runs in eval mode.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from layerwise.dropout import seed_dropout
from layerwise.errors import Diverged, LayersError
from layerwise.feed import Feed, batches
from layerwise.layers import Layer, fit, layers, set_modes
from layerwise.nets import build
from layerwise.randomness import seed
from layerwise.run import Recipe, Run, key
from layerwise.start import State, begin

EVALUATION_BATCH = 100


Ahead = Callable[[Run, int, nn.Module, Sequence[Layer], Feed], tuple[nn.Module, Feed]]


@dataclass(frozen=True)
class Point:
    """One measurement on the way: after so many optimiser steps, on one part of the task."""

    step: int
    split: str  # train, validation, test
    quantity: str  # accuracy (a fraction) or loss
    value: float


@dataclass(frozen=True)
class Trained:
    """What training leaves: the weights before the first update and after the last, and the learning curve."""

    initial: State
    weights: State
    curve: tuple[Point, ...]
    steps: tuple[int, ...]  # optimiser steps taken, per stage


def whole(run: Run, stage: int, net: nn.Module, found: Sequence[Layer], feed: Feed) -> tuple[nn.Module, Feed]:
    """Nothing is computed ahead of training: each step passes through the whole net."""
    return net, feed


def train(run: Run, feed: Feed, source: Trained | None = None, ahead: Ahead = whole) -> Trained:
    """Train a run on its task; `source` is what training its source left.

    `ahead` may compute the frozen layers before training begins (see `layerwise.prefix`).

    Raises Diverged where the loss is no number, LayersError where treatment or recipe do not fit the net.
    """
    net = build(run.net, feed.shape, run.task.outputs, seed=0).to(feed.codes.dtype)  # its weights are replaced below
    found = layers(net, torch.zeros(1, *feed.shape, dtype=feed.codes.dtype, device=feed.codes.device))
    fit(run.treatment, run.net, found)
    previous = source.weights if source else None
    rewound = source.initial if source else None
    initial: State = {}
    curve: list[Point] = []
    ends = [0]
    for stage in range(len(run.recipes)):
        state = begin(run, stage, found, feed.shape, previous, rewound)
        net.load_state_dict(state)
        initial = initial or state
        with torch.random.fork_rng(devices=[]):  # for nets that draw from it: the caller's stream is not touched
            torch.default_generator.manual_seed(seed("torch", run.seed, run.task.stream, run.draw, stage))
            curve += _train_stage(run, stage, net, found, feed, ahead, ends[-1])
        ends.append(curve[-1].step)
        previous = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert previous is not None
    return Trained(initial, previous, tuple(curve), tuple(b - a for a, b in pairwise(ends)))


def _train_stage(
    run: Run, stage: int, net: nn.Module, found: Sequence[Layer], feed: Feed, ahead: Ahead, before: int
) -> list[Point]:
    recipe, trained = run.recipes[stage], run.treatment.trained[stage]
    rest, feed = ahead(run, stage, net, found, feed)
    part = feed.parts["train"]
    optimiser = build_optimiser(dict(net.named_parameters()), found, trained, recipe)
    seed_dropout(net, found, run, stage)
    order = batches(run, stage, len(part.classes))
    curve: list[Point] = []
    if recipe.evaluates_after(0):
        curve += finite(run, evaluate(rest, feed, before, looked_at(feed, recipe, 0)))
    set_modes(net, found, trained, frozen_dropout=recipe.frozen_dropout)
    for step in range(recipe.steps):
        batch = next(order)
        loss = feed.loss(rest(part.images(batch)), part.classes[batch])
        finite(run, [Point(before + step, "train", "loss", loss.item())])
        if optimiser:
            set_rates(optimiser, recipe.rate_at(step))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        if recipe.evaluates_after(step + 1):
            curve += finite(run, evaluate(rest, feed, before + step + 1, looked_at(feed, recipe, step + 1)))
            set_modes(net, found, trained, frozen_dropout=recipe.frozen_dropout)
            if recipe.stop_at is not None and newest_accuracy(curve) >= recipe.stop_at:
                break
    return curve


def build_optimiser(
    weights: Mapping[str, Tensor], found: Sequence[Layer], trained: Sequence[bool], recipe: Recipe, *, fused: bool = False
) -> torch.optim.Optimizer | None:
    """An optimiser that holds the trained layers only, a group for each rate; nothing where no layer is trained."""
    if recipe.layer_rates and len(recipe.layer_rates) != len(found):
        raise LayersError(
            f"the recipe has layer_rates for {len(recipe.layer_rates)} layers; the net has {len(found)}: "
            + " ".join(layer.name for layer in found)
        )
    by_rate: dict[float, list[Tensor]] = {}
    for k, (layer, on) in enumerate(zip(found, trained, strict=True)):
        parameters = [weights[name].requires_grad_(on) for name in layer.parameters if name in weights]
        if on and parameters:
            by_rate.setdefault(recipe.layer_rates[k] if recipe.layer_rates else 1.0, []).extend(parameters)
    if not by_rate:
        return None
    groups = [{"params": parameters, "multiplier": rate} for rate, parameters in by_rate.items()]
    if recipe.optimiser == "adam":
        return torch.optim.Adam(groups, lr=recipe.rate, weight_decay=recipe.weight_decay, fused=fused or None)
    return torch.optim.SGD(
        groups,
        lr=recipe.rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=fused or None,
    )


def set_rates(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the step's learning rate, times each layer's multiplier."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["multiplier"]


@torch.no_grad()
def evaluate(net: nn.Module, feed: Feed, step: int, splits: Sequence[str]) -> list[Point]:
    """Accuracy and mean loss on these parts of the task, everything in eval mode."""
    net.eval()
    curve = []
    for split in splits:
        part = feed.parts[split]
        outputs = torch.cat([net(images) for images in part.chunks(EVALUATION_BATCH)])
        right = feed.predict(outputs) == part.classes
        curve.append(Point(step, split, "accuracy", right.double().mean().item()))
        curve.append(Point(step, split, "loss", feed.loss(outputs, part.classes).item()))
    return curve


def looked_at(feed: Feed, recipe: Recipe, step: int) -> list[str]:
    """The training samples are looked at in the end, and on the way only by a recipe that stops on their accuracy."""
    everything = recipe.stop_at is not None or step == recipe.steps
    return [split for split in feed.parts if everything or split != "train"]


def finite(run: Run, points: list[Point]) -> list[Point]:
    """These points; raises Diverged at the first that is no number."""
    for point in points:
        if not math.isfinite(point.value):
            what = f"{point.quantity} {point.value} at step {point.step}"
            raise Diverged(f"run {key(run)} ({run.treatment}, seed {run.seed}) {what}")
    return points


def newest_accuracy(curve: Sequence[Point]) -> float:
    """The newest accuracy on the training samples themselves."""
    return next(p.value for p in reversed(curve) if (p.split, p.quantity) == ("train", "accuracy"))
