"""Yosinski's protocol fitted to a data set: which halves of its classes, how many images, how long each net trains."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from layerwise.costs import layer_parameters
from layerwise.errors import StudyError
from layerwise.nets.alexnet import ALEXNET_SIDE
from layerwise.randomness import generator
from layerwise.run import Recipe
from layerwise.studies.request import Request, available, fit_parts, scaled, sides
from layerwise.tasks import Parts

MOST = 10**6  # more than there is of anything
PASSES = 179  # over the training images: the paper's 450,000 batches of 256 of its 645,000 images
STEPPED = (2 / 9, 4 / 9, 6 / 9, 8 / 9)  # the rate falls after each 100,000 of 450,000 steps
PAPERS = ("alexnet8", "alexnet8he")  # the paper's net, as Caffe and as He would have it begin
FEWER = (1, 2, 5, 10, 25, 50, 100, 250, 500, 750, 1_000)  # samples per class


@dataclass(frozen=True)
class Scale:
    """How large a grid is run, and how its nets are trained."""

    seeds: int
    trials: int
    directions: int  # 1: A to B; 2: also B to A
    cuts: tuple[int, ...]  # of transfer, dissimilar and random filters; none is every cut
    few_cuts: tuple[int, ...]  # of preserve, matched and rewound
    shots: tuple[int, ...]  # of the experiment samples
    examples: int | None  # to train on, over all classes of a half; null is all
    test: int  # over all classes of a half
    steps: int | None  # of every net; null is as many as PASSES take
    batch: int
    rate: float
    drops: tuple[float, ...]
    looks: int  # at a base while it learns


# Few images in demo, so that bases finish learning: else what is copied gains because it has learnt for longer.
SCALES = {
    "demo": Scale(5, 1, 1, (1, 2, 4, 5, 7), (4,), (10,), 1_550, 3_100, 350, 32, 0.01, (0.8,), 5),
    "paper": Scale(4, 1, 2, (), (), FEWER, None, 25_000, None, 256, 0.01, STEPPED, 20),
}


@dataclass(frozen=True)
class Design:
    """The request fitted to the data: what exactly is run."""

    request: Request
    experiments: tuple[str, ...]
    net: str
    sizes: dict[str, int]  # parameters of each layer
    scale: Scale
    width: int  # classes of a half
    shots: int  # samples per class
    parts: Parts
    base: Recipe
    target: Recipe
    notes: tuple[str, ...]

    def cuts(self, wanted: Sequence[int]) -> list[int]:
        """These cuts, as far as the net has them; every one where none is named."""
        return [n for n in wanted or range(1, len(self.sizes)) if n < len(self.sizes)]


def fitted(request: Request, wanted: tuple[str, ...]) -> Design:
    """Fit the paper's protocol to the data, and note what had to be fitted."""
    scale: Scale = scaled(request, SCALES)
    wanted = _possible(request, wanted)
    width = len(halves(request, 0, MOST)[1])
    if "dissimilar" in wanted:
        width = min(width, *map(len, sides(request, "yosinski", 0, MOST)))
    largest = -(-scale.examples // width) if scale.examples else MOST
    parts, notes = fit_parts(request, -(-scale.test // width), largest)
    shots = min(available(request, parts), largest)
    if request.shots and max(request.shots) >= shots:
        raise StudyError(f"--shots {max(request.shots)}: all other nets have {shots} samples per class; ask for fewer")
    steps = scale.steps or -(-PASSES * width * shots // scale.batch)
    net = request.net or _default(request)
    target, learning = _recipe(request, net, scale, steps), request.source_steps or steps
    passes = steps * scale.batch / (width * shots)
    notes += [
        f"classes: {width} in each half, chance {1 / width:.1%}; random halves are drawn anew for each seed",
        f"every net: {steps:,} steps of {scale.batch} images, {passes:.1f} passes over {shots} samples of each class "
        f"of a half (the paper: {PASSES} over 1,300)",
    ]
    if request.scale == "paper" and net not in PAPERS:
        notes.append(
            f"net: {net} in the place of the paper's alexnet8, which takes colour images of {ALEXNET_SIDE}x"
            f"{ALEXNET_SIDE} (--resize {ALEXNET_SIDE})"
        )
    if net == PAPERS[0] and "random-filters" in wanted:
        notes.append(
            "random filters: with Caffe's initialisation the authors' did not train from n = 3 on; for these pass "
            f"--net {PAPERS[1]}, which has He's"
        )
    if request.source_steps:
        notes.append(f"bases, which are sources and controls: {request.source_steps:,} steps (--source-steps)")
    if "dissimilar" in wanted:
        rule = f"--split {request.split}" if request.split else f"--known {request.known} against the others"
        notes.append(
            f"dissimilar halves: {rule}, {width} classes each; seeds draw from the kind that has more and share the "
            "other, so that intervals are given these two kinds, and seeds that draw the same classes are one class "
            "split"
        )
    elif request.experiments is None:
        notes.append("dissimilar halves: none, as no kinds were named (--split column:NAME, or --known LIST)")
    return Design(
        request=request,
        experiments=wanted,
        net=net,
        sizes=layer_parameters(net, request.data.images.shape[1:], width),
        scale=replace(scale, shots=tuple(k for k in scale.shots if k < shots)),
        width=width,
        shots=shots,
        parts=parts,
        base=replace(target, steps=learning, evaluate_every=max(1, learning // scale.looks)),
        target=target,
        notes=tuple(notes),
    )


def _default(request: Request) -> str:
    """The paper's net at the paper's scale, for images that it takes; else its small relative."""
    is_papers = request.scale == "paper" and request.data.images.shape[1:] == (3, ALEXNET_SIDE, ALEXNET_SIDE)
    return PAPERS[0] if is_papers else "small8"


def _possible(request: Request, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The experiments without what the options do not name; StudyError where they contradict each other."""
    kinds = f"--known {request.known}" if request.known else f"--split {request.split}" if _by_kind(request) else None
    if "dissimilar" in wanted and kinds is None:
        if request.experiments is not None:
            raise StudyError(
                "experiment 'dissimilar' needs two kinds of classes: pass --split column:NAME or --known LIST"
            )
        wanted = tuple(name for name in wanted if name != "dissimilar")
    for name, given in (("dissimilar", kinds), ("samples", "--shots" if request.shots else None)):
        if given and name not in wanted:
            raise StudyError(f"{given} is for the experiment '{name}', which --experiments leaves out; name it there")
    return wanted


def _by_kind(request: Request) -> bool:
    return request.split is not None and not request.split.startswith("random:")


def _recipe(request: Request, net: str, scale: Scale, steps: int) -> Recipe:
    """SGD with momentum, weight decay and a rate that falls in steps; Caffe kept dropout on in frozen layers too."""
    return Recipe(
        steps, scale.batch, scale.rate, momentum=0.9, weight_decay=5e-4, drops=scale.drops,
        frozen_dropout=net in PAPERS, **request.how,
    )  # fmt: skip


def halves(request: Request, seed: int, width: int) -> list[tuple[int, ...]]:
    """The classes of A and of B, drawn at random from all of them."""
    at_random = replace(request, known=None, split=None if _by_kind(request) else request.split)
    return list(sides(at_random, "yosinski", seed, width))


def kinds(request: Request, seed: int, width: int) -> list[tuple[int, ...]]:
    """The classes of A and of B, so many of each of two kinds."""
    found = sides(request, "yosinski", seed, width)
    drawn = [generator("kind", request.data.digest, seed, one).permutation(one)[:width] for one in found]
    return [tuple(sorted(classes.tolist())) for classes in drawn]
