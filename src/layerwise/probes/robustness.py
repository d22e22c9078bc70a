"""Robustness: the accuracy that is left when one trained layer is reset, and nothing is trained again.

Zhang, Bengio and Singer 2019, https://arxiv.org/abs/1902.01996: reset a layer to its weights before training
(*re-initialisation* there, `rewound` here) or to new draws (*re-randomisation*, `fresh`). `matched` weights are drawn
with the mean and deviation of the trained ones, tensor by tensor, so that only their arrangement is lost and not their
scale. They are what the letters W, R and M of a treatment begin with (see `layerwise.start`), buffers included.

Batch norm confounds this: behind a reset layer its running statistics are those of inputs that no longer come, and
those of the reset layer itself begin at 0 and 1. A layer can so seem critical of which only the scale was lost. Where
images to estimate them on are given, each reset is therefore measured twice: with the statistics as they are
(`reset`), and with those of the layer and of all later ones computed anew from these images (`estimated`).
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from layerwise.claims import Interval, interval
from layerwise.curve import EVALUATION_BATCH
from layerwise.errors import LayersError, RepresentationError
from layerwise.layers import Layer, cut
from layerwise.probes.about import About
from layerwise.randomness import seed
from layerwise.start import State, copy_layer, match

KINDS = ("fresh", "rewound", "matched")
STATISTICS = ("reset", "estimated")
BASE = "base"  # nothing is reset
ZHANG = "Zhang, Bengio and Singer 2019, section 2, https://arxiv.org/abs/1902.01996"
ABOUT = {
    "fresh": About(
        "The accuracy lost when the layer gets newly drawn weights: what the net loses without anything learnt there.",
        "Most layers fall to chance, by the scale of the draw as much as by what was learnt; the interval is over "
        "draws, given one net and its images.",
        f"{ZHANG}: re-randomisation",
    ),
    "rewound": About(
        "The accuracy lost when the layer goes back to its weights before training: what the net loses without its "
        "training there.",
        "The later layers grew up with this very draw, so it is no measure of what other weights would do; there is "
        "one such draw, and no interval.",
        f"{ZHANG}: re-initialisation",
    ),
    "matched": About(
        "The accuracy lost when the layer's weights are drawn anew with their trained mean and deviation.",
        "A Gaussian has no filters that are all zero and none that stand out, which trained layers have.",
        "after Neyshabur et al. 2020 and Matsoukas et al. 2022, who train such weights further",
    ),
}
ACCURACIES = {
    "accuracy_after_reset": About(
        "The accuracy that is left when the layer is reset in each of the three ways and nothing is trained.",
        "What chance is depends on the number of classes; beside it stands the accuracy before, of the same images.",
        f"{ZHANG}: the measure of their figures",
    ),
    "accuracy_before_reset": About(
        "The accuracy of the net as it is, from which those lost are taken; `estimated` is that with batch norm's "
        "statistics computed anew.",
        "It is that of some images of the classes for which the head has an output, not of the data's whole test part.",
        ZHANG,
    ),
}

MEMORY = 2**29  # bytes for what the layers below the reset one make of the images
STATISTICS_BATCH = 250  # images whose mean and variance are taken together
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Draws:
    """What layers are reset to."""

    fresh: Callable[[int], State]  # the state of a new net, from a seed; see `layerwise.start.fresh`
    initial: Mapping[str, Tensor] | None = None  # the state before the first update; null where it is not known
    number: int = 5  # of fresh and of matched draws
    seed: int = 0


@dataclass(frozen=True)
class Reset:
    """A layer reset in one way; where that cannot be done there is no accuracy, and `reason` says why."""

    layer: str
    number: int
    kind: str
    statistics: str  # of batch norm: as the reset leaves them, or estimated anew
    accuracies: tuple[float, ...]  # fractions, one for each draw
    base: float  # the accuracy of the net that was trained, its statistics as here
    reason: str = ""

    @property
    def accuracy(self) -> float | None:
        """The mean over draws."""
        return fmean(self.accuracies) if self.accuracies else None

    @property
    def lost(self) -> float | None:
        """How much of the base is lost, on average over draws."""
        return self.base - fmean(self.accuracies) if self.accuracies else None

    @property
    def bounds(self) -> Interval | None:
        """95 % interval of the mean over draws; null for a single draw."""
        return interval(self.accuracies, CONFIDENCE)


Predict = Callable[[Tensor], Tensor]  # outputs (examples, ...) to classes (examples)


def likeliest(outputs: Float[Tensor, "examples classes"]) -> Int[Tensor, " examples"]:
    """The class of the largest output; `layerwise.feed.Feed.predict` is for outputs that are codes."""
    return outputs.argmax(1)


def robustness(
    net: nn.Module,
    found: Sequence[Layer],
    images: Float[Tensor, "examples ..."],
    classes: Int[Tensor, " examples"],
    draws: Draws,
    *,
    estimate_on: Float[Tensor, "some ..."] | None = None,
    predict: Predict = likeliest,
    memory: int = MEMORY,
    progress: Callable[[int, int], None] | None = None,
) -> list[Reset]:
    """The accuracy on these images when each layer, alone, is reset in each way; the net is left as it is.

    `estimate_on` are training images for batch norm's statistics, some hundreds; without batch norm they are of no
    use. What lies below the reset layer is computed once for all its resets, as far as the net can be cut there, for
    as many images at a time as `memory` bytes have room for (and from no more than that are statistics estimated).
    Layers that cannot be reset in some way, or that a reset leaves as they are, have a reason in place of accuracies.
    Raises RepresentationError where there are no images or draws, and where the trained net gives no numbers.
    """
    if min(len(images), len(estimate_on) - 1 if estimate_on is not None else 1, draws.number) < 1:
        given = f"{len(images)} images, {draws.number} draws" + ("" if estimate_on is None else f", {len(estimate_on)}")
        raise RepresentationError(f"robustness needs images, draws and, for statistics, two images; not {given}")
    subject = _Subject(copy.deepcopy(net).eval().requires_grad_(False), found, draws, predict)
    with torch.no_grad():
        sections = list(_sections(subject.net, found, images[:2]))
        widest = max(features[0].nbytes for _, features in _walk(sections, images[:1]))
        at_once = max(memory // widest // EVALUATION_BATCH, 1) * EVALUATION_BATCH
        estimated = estimate_on is not None and bool(subject.norms)
        trials = list(_trials(found, draws, STATISTICS if estimated else STATISTICS[:1]))
        if estimate_on is not None:
            for section, features in _walk(sections, estimate_on[_some(len(estimate_on), at_once, draws.seed)]):
                for trial in _of(trials, section.layer, "estimated"):
                    subject.estimate(trial, section.rest, features)
        blocks = list(zip(torch.split(images, at_once), torch.split(classes, at_once), strict=True))
        for block, (some, answers) in enumerate(blocks):
            for section, features in _walk(sections, some):
                for trial in _of(trials, section.layer):
                    subject.count(trial, section.rest, features, answers)
                if progress:
                    progress(block * len(found) + section.layer.number, len(blocks) * len(found))
    return _resets(trials, len(images))


def _some(images: int, most: int, drawn: int) -> Int[Tensor, " some"]:
    """Images by position, shuffled: where classes lie together a batch would have the statistics of one class."""
    draw = torch.Generator().manual_seed(seed("robustness", drawn, "statistics"))
    return torch.randperm(images, generator=draw)[:most]


@dataclass
class _Trial:
    """One layer reset in one way, a net for each draw. The base is a trial, too, which resets nothing."""

    layer: Layer
    kind: str
    statistics: str
    right: list[int]  # answers, for each draw
    estimates: list[State] = field(default_factory=list)  # of the statistics, for each draw
    reason: str = ""

    def __str__(self) -> str:
        return "the trained net" if self.kind == BASE else f"layer {self.layer.number} '{self.layer.name}' {self.kind}"


def _trials(found: Sequence[Layer], draws: Draws, statistics: Sequence[str]) -> Iterator[_Trial]:
    for kept in statistics:
        yield _Trial(found[0], BASE, kept, [0])
        for layer in found:
            for kind in KINDS:
                yield _Trial(layer, kind, kept, [0] * (1 if kind == "rewound" else draws.number))


def _of(trials: Sequence[_Trial], layer: Layer, *statistics: str) -> list[_Trial]:
    """The trials that begin with this layer and have not failed."""
    chosen = statistics or STATISTICS
    return [t for t in trials if t.layer == layer and not t.reason and t.statistics in chosen]


class _Subject:
    """A copy of the trained net, and what can be done with it while one of its layers is another."""

    def __init__(self, net: nn.Module, found: Sequence[Layer], draws: Draws, predict: Predict) -> None:
        self.net, self.found, self.draws, self.predict, self.trained = net, found, draws, predict, net.state_dict()
        self.norms = {n: m for n, m in net.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}

    def count(
        self,
        trial: _Trial,
        rest: nn.Module,
        features: Float[Tensor, "examples ..."],
        answers: Int[Tensor, " examples"],
    ) -> None:
        """Add the right answers of each of the trial's nets on these images, or give the reason why there are none."""
        with _reasoned(trial):
            for draw in range(len(trial.right)):
                changed = self.changed(trial, draw)
                if trial.estimates:
                    changed |= trial.estimates[draw]
                for some, wanted in zip(
                    torch.split(features, EVALUATION_BATCH), torch.split(answers, EVALUATION_BATCH), strict=True
                ):
                    outputs = functional_call(rest, changed, (some,))
                    if not outputs.isfinite().all():
                        raise RepresentationError(f"{trial}, draw {draw + 1}: the net's outputs are no longer numbers")
                    trial.right[draw] += int((self.predict(outputs) == wanted).sum())

    def estimate(self, trial: _Trial, rest: nn.Module, features: Float[Tensor, "some ..."]) -> None:
        """Give each of the trial's nets the statistics of these images, in the reset layer and all later ones."""
        later = {name for layer in self.found[trial.layer.number - 1 :] for name in layer.buffers}
        norms = {name: norm for name, norm in self.norms.items() if f"{name}.running_mean" in later}
        with _reasoned(trial):
            for draw in range(len(trial.right)):
                trial.estimates.append(_statistics(rest, norms, self.changed(trial, draw), features))

    def changed(self, trial: _Trial, draw: int) -> State:
        """The layer's tensors after the reset; raises RepresentationError or LayersError where it cannot be done."""
        if trial.kind == BASE:
            return {}
        layer, names = trial.layer, trial.layer.parameters + trial.layer.buffers
        state = self.draws.fresh(seed("robustness", self.draws.seed, draw))
        if trial.kind == "rewound":
            copy_layer(state, self.rewound(layer), names, layer)
        elif trial.kind == "matched":
            noise = torch.Generator().manual_seed(seed("robustness", self.draws.seed, draw, layer.name))
            match(state, {name: self.trained[name].cpu() for name in layer.parameters}, layer, noise)
        changed = {name: state[name].to(self.trained[name]) for name in names if name in self.trained}
        if all(torch.equal(changed[name], self.trained[name]) for name in layer.parameters):
            raise RepresentationError(
                f"{trial} has the weights that it had, so nothing is known of its robustness; read another kind"
            )
        return changed

    def rewound(self, layer: Layer) -> Mapping[str, Tensor]:
        """The weights before training."""
        if not self.draws.initial:
            raise RepresentationError(
                f"layer {layer.number} '{layer.name}' cannot be rewound: the net's weights before training are not "
                "known; read fresh or matched"
            )
        return self.draws.initial


@contextmanager
def _reasoned(trial: _Trial) -> Iterator[None]:
    """What cannot be done is the trial's reason; without the base there is nothing to compare with."""
    try:
        yield
    except (RepresentationError, LayersError) as error:
        if trial.kind == BASE:
            raise
        trial.reason = str(error)


def _statistics(
    rest: nn.Module, norms: Mapping[str, _BatchNorm], changed: State, features: Float[Tensor, "some ..."]
) -> State:
    """The norms' running mean and variance on these images: averages over batches, all of one size but for one image.

    Each norm normalises by the batch itself while this lasts, so that those behind it see what they will see.
    """
    zeros = {
        f"{name}.{buffer}": torch.zeros_like(tensor)
        for name, norm in norms.items()
        for buffer, tensor in norm.named_buffers(recurse=False)
    }
    for norm in norms.values():
        norm.momentum = None  # an average over all batches
        norm.train()
    try:
        for some in features.tensor_split(-(-len(features) // STATISTICS_BATCH)):
            functional_call(rest, {**changed, **zeros}, (some,))
    finally:
        for norm in norms.values():
            norm.eval()
    return zeros


@dataclass(frozen=True)
class _Section:
    """A layer, what leads to it from the last cut (null where there is none in between), and the rest of the net."""

    layer: Layer
    between: nn.Module | None
    rest: nn.Module


def _sections(net: nn.Module, found: Sequence[Layer], example: Float[Tensor, "few ..."]) -> Iterator[_Section]:
    """Each layer with the rest of the net from the last place before it where a single tensor crosses, by example."""
    rest, features = net, example
    for layer in found:
        between = None
        try:
            first, after = cut(rest, found, layer.number - 1) if layer.number > 1 else (None, rest)
            made = first(features) if first else None
            if isinstance(made, Tensor) and len(made) == len(features):
                between, rest, features = first, after, made
        except LayersError:
            pass  # within a residual block, or where the forward pass cannot be traced
        yield _Section(layer, between, rest)


def _walk(
    sections: Sequence[_Section], images: Float[Tensor, "some ..."]
) -> Iterator[tuple[_Section, Float[Tensor, "some ..."]]]:
    """Each layer with what the rest of the net, from the cut before that layer on, is given of these images."""
    features = images
    for section in sections:
        if section.between is not None:
            features = torch.cat([section.between(some) for some in torch.split(features, EVALUATION_BATCH)])
        yield section, features


def _resets(trials: Sequence[_Trial], images: int) -> list[Reset]:
    bases = {trial.statistics: trial.right[0] / images for trial in trials if trial.kind == BASE}
    return [
        Reset(
            trial.layer.name,
            trial.layer.number,
            trial.kind,
            trial.statistics,
            () if trial.reason else tuple(right / images for right in trial.right),
            bases[trial.statistics],
            trial.reason,
        )
        for trial in trials
        if trial.kind != BASE
    ]
