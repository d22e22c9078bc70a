"""The reference trainer: one run after another, each on one thread, as plainly as it can be written.

Every faster way to train (see `layerwise.execute`) gives what this gives.

Frozen is a contract: parameters and buffers of a frozen layer are byte-equal before and after. The optimiser does not
hold them (so neither momentum nor weight decay moves them), no gradient reaches them, and the whole layer, its batch
norm and dropout included, runs in eval mode. Of a layer that is frozen in part, see `layerwise.parts`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from layerwise.augmented import Augmenter
from layerwise.curve import Point, evaluate, finite, looked_at, newest_accuracy
from layerwise.dropout import seed_dropout
from layerwise.feed import Feed, batches, layout
from layerwise.layers import Layer, fit, layers, set_modes
from layerwise.nets import build
from layerwise.optimiser import build_optimiser, set_rates
from layerwise.parts import choose, keep_frozen
from layerwise.randomness import seed
from layerwise.run import Recipe, Run
from layerwise.start import State, begin
from layerwise.units import Chosen

Ahead = Callable[[Run, int, nn.Module, Sequence[Layer], Feed], tuple[nn.Module, Feed]]
Observe = Callable[[int, nn.Module], None]


@dataclass(frozen=True)
class Trained:
    """What training leaves: the weights before the first update and after the last, and the learning curve."""

    initial: State
    weights: State
    curve: tuple[Point, ...]
    steps: tuple[int, ...]  # optimiser steps taken, per stage
    chosen: tuple[Mapping[str, Chosen], ...] = ()  # the units that were copied of P layers, by their names, per stage


def whole(run: Run, stage: int, net: nn.Module, found: Sequence[Layer], feed: Feed) -> tuple[nn.Module, Feed]:
    """Nothing is computed ahead of training: each step passes through the whole net."""
    return net, feed


def unobserved(step: int, net: nn.Module) -> None:
    """Nobody looks at the net on its way."""


def train(
    run: Run, feed: Feed, source: Trained | None = None, ahead: Ahead = whole, observe: Observe = unobserved
) -> Trained:
    """Train a run on its task; `source` is what training its source left.

    `ahead` may compute the frozen layers before training begins (see `layerwise.prefix`). `observe` is shown the net
    before the first step (0) and after each, to look at and leave as it is.

    Raises Diverged where the loss is no number, LayersError where treatment or recipe do not fit the net.
    """
    previous = source.weights if source else None
    rewound = source.initial if source else None
    initial: State = {}
    curve: list[Point] = []
    ends = [0]
    chosen: list[Mapping[str, Chosen]] = []
    for stage in range(len(run.recipes)):
        net, found = laid_out([run], feed)
        chosen.append(choose(run, stage, found, feed, previous))
        state = begin(run, stage, found, feed.shape, previous, rewound, chosen[-1])
        net.load_state_dict(state)
        initial = initial or state
        if stage == 0:
            observe(0, net)
        drawn = seed("torch", run.seed, run.task.stream, run.draw, stage)
        with _stream(drawn, feed), arithmetic(run.recipes[stage], feed):
            curve += _Stage(run, stage, net, found, feed, ahead, ends[-1], chosen[-1]).train(observe)
        ends.append(curve[-1].step)
        previous = {n: tensor.clone(memory_format=torch.contiguous_format) for n, tensor in net.state_dict().items()}
    assert previous is not None
    return Trained(initial, previous, tuple(curve), tuple(b - a for a, b in pairwise(ends)), tuple(chosen))


class _Stage:
    """One stage of a run on its way: the rest of the net that is trained, and its optimiser."""

    def __init__(
        self, run: Run, stage: int, net: nn.Module, found: Sequence[Layer], feed: Feed, ahead: Ahead, before: int,
        chosen: Mapping[str, Chosen],
    ) -> None:  # fmt: skip
        self.run, self.net, self.found, self.before = run, net, found, before
        self.recipe, self.trained = run.recipes[stage], run.treatment.trained[stage]
        self.rest, self.feed = ahead(run, stage, net, found, feed)
        self.part = self.feed.parts["train"]
        self.optimiser = build_optimiser(dict(net.named_parameters()), found, self.trained, self.recipe)
        keep_frozen(net, chosen, self.optimiser)
        self.order = batches(run, stage, len(self.part.classes))
        self.augmenter = Augmenter([run], stage, [len(self.part.classes)])
        seed_dropout(net, found, run, stage)

    def train(self, observe: Observe) -> list[Point]:
        """Take the stage's steps, and give its part of the learning curve."""
        curve = self.points(0)
        for step in range(self.recipe.steps):
            self.step(step)
            observe(self.before + step + 1, self.net)
            if self.recipe.evaluates_after(step + 1):
                curve += self.points(step + 1)
                if self.recipe.stop_at is not None and newest_accuracy(curve) >= self.recipe.stop_at:
                    break
        return curve

    def step(self, step: int) -> None:
        """One update of all that is trained."""
        batch = next(self.order)
        images = self.part.images(batch)
        if self.augmenter.is_on:
            images = self.augmenter.vary(images, self.augmenter.take(batch[None])[0])
        loss = self.feed.loss(self.rest(images), self.part.classes[batch])
        finite(self.run, [Point(self.before + step, "train", "loss", loss.item())])
        if self.optimiser:
            set_rates(self.optimiser, self.recipe.rate_at(step))
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()

    def points(self, step: int) -> list[Point]:
        """The points of the learning curve after so many steps, if any; leaves the net as training wants it."""
        found: list[Point] = []
        if self.recipe.evaluates_after(step):
            seen = looked_at(self.feed.parts, self.recipe, step)
            found = finite(self.run, evaluate(self.rest, self.feed, self.before + step, seen))
        self.set_modes()
        return found

    def set_modes(self) -> None:
        """Dropout and batch norm as the stage trains each layer."""
        set_modes(self.net, self.found, self.trained, frozen_dropout=self.recipe.frozen_dropout)


@contextmanager
def _stream(drawn: int, feed: Feed) -> Iterator[None]:
    """PyTorch's global stream, for nets that draw from it, seeded; the caller's is not touched."""
    device = feed.codes.device
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.default_generator.manual_seed(drawn)
        if device.type == "cuda":
            torch.cuda.manual_seed(drawn)
        yield


@contextmanager
def arithmetic(recipe: Recipe, feed: Feed) -> Iterator[None]:
    """The recipe's precision: bfloat16 by autocast, TF32 where there is an accelerator that has it."""
    device = feed.codes.device.type
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = recipe.precision == "tf32"
    try:
        # A cache would keep the weights as they were cast before they were updated.
        with torch.autocast(device, torch.bfloat16, recipe.precision == "bfloat16", cache_enabled=False):
            yield
    finally:
        if device == "cuda":
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def rehearse_alone(run: Run, stage: int, feed: Feed, source: Trained, ahead: Ahead = whole) -> Callable[[], object]:
    """A step of a run's stage, ready to be taken again and again, to see how long it takes."""
    net, found = laid_out([run], feed)
    chosen = choose(run, stage, found, feed, source.weights)
    net.load_state_dict(begin(run, stage, found, feed.shape, source.weights, source.initial, chosen))
    with arithmetic(run.recipes[stage], feed):
        made = _Stage(run, stage, net, found, feed, ahead, 0, chosen)
        made.set_modes()

    def step() -> None:
        with arithmetic(run.recipes[stage], feed):
            made.step(0)

    return step


def laid_out(runs: Sequence[Run], feed: Feed) -> tuple[nn.Module, tuple[Layer, ...]]:
    """A net for the tasks of these runs, which are alike, and its layers; its weights are still to be set."""
    first = runs[0]
    net = build(first.net, feed.shape, first.task.outputs, seed=0).to(feed.codes)
    found = layers(net, torch.zeros(1, *feed.shape).to(feed.codes))
    for run in runs:
        fit(run.treatment, run.net, found)
    net.to(memory_format=layout(channels_last=first.recipes[0].channels_last))  # type: ignore[call-overload]
    return net, found
