"""Gutstein's protocol fitted to the data: how large the grids are, how nets are trained, and the parts of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from layerwise.costs import layer_parameters
from layerwise.run import Recipe, Run
from layerwise.studies.request import Request, available, experiments, fit_parts, fit_shots, scaled, sides
from layerwise.studies.sources import choices
from layerwise.tasks import Parts, Task
from layerwise.treatment import Treatment

EXPERIMENTS = {
    "levels": "n = 0 to 5 levels kept, from 1 to 40 samples per class: the paper's grid",
    "partial": "part of the maps of C3 and of C5 kept, chosen by saliency, by information or at random",
    "tuned": "the kept levels frozen, or free to retrain",
    "sources": "5, 10 or 20 source classes, drawn or chosen for the target",
    "lifelong": "task after task on one trunk, frozen or free to retrain: what is forgotten, and what is added",
}
BITS = 20  # of a class's target, and outputs of the net
MOST_CLASSES = 20  # on each side
SOURCE_ACCURACY = 0.94  # on its own training samples: "deemed sufficient and perhaps even more appropriate"


@dataclass(frozen=True)
class Scale:
    """How large a grid is run."""

    seeds: int
    trials: int
    shots: tuple[int, ...]
    source_shots: int
    test: int  # characters over all classes of a side
    steps: int
    source_steps: int  # at most


SCALES = {
    "demo": Scale(5, 1, (1, 5, 10, 40), source_shots=100, test=400, steps=640, source_steps=3_000),
    "paper": Scale(1, 5, (1, 5, 10, 20, 40), source_shots=400, test=1_000, steps=2_000, source_steps=8_000),
}
BEYOND = {  # the experiments that the paper does not have, whose questions one source could not answer
    "demo": replace(SCALES["demo"], shots=(10,)),
    "paper": replace(SCALES["paper"], seeds=10, trials=1),
}


@dataclass(frozen=True)
class Design:
    """The request fitted to the data: what exactly is run."""

    request: Request
    experiments: tuple[str, ...]
    net: str
    sizes: dict[str, int]  # parameters of each layer
    scale: Scale
    beyond: Scale  # of the experiments that the paper does not have
    parts: Parts
    source: Recipe
    target: Recipe
    notes: tuple[str, ...]
    chosen: Mapping[int, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    """For each class split the source classes of each choice (see `layerwise.studies.sources`)."""

    @property
    def depth(self) -> int:
        """How many layers the net has."""
        return len(self.sizes)

    def sides(self, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Source and target classes of a class split."""
        return sides(self.request, "gutstein", seed, MOST_CLASSES)

    def cluster(self, seed: int) -> str:
        """The name of a class split: that of its source classes, so that seeds that share them (--known) are one."""
        return self.task(self.sides(seed)[0], 1, seed).name

    def task(self, classes: tuple[int, ...], shots: int, draw: int) -> Task:
        """So many samples of each of these classes, towards random bits."""
        return Task(self.request.data.digest, classes, shots, f"bits:{BITS}", self.parts, draw)

    def source_net(self, classes: tuple[int, ...], seed: int) -> Run:
        """The net that learns these classes first."""
        task = self.task(classes, self.scale.source_shots, seed)
        return Run(self.net, task, Treatment.parse("R*").resolve(self.depth), None, (self.source,), seed)

    def target_net(self, task: Task, treatment: Treatment, source: Run, tasks_before: int = 1) -> Run:
        """A net that learns a task, with whatever the treatment takes from a source that learnt so many before."""
        origin = source if treatment.needs_source else None
        # The control from scratch shares its fresh weights and data order with the transfers.
        return Run(self.net, task, treatment, origin, (self.target,), task.seed, draw=tasks_before)


@dataclass(frozen=True)
class Cell:
    """One run of an experiment, and where it stands in it. A source net has no trial."""

    run: Run
    seed: int  # which class split
    trial: int | None
    n: int | None  # levels kept, where that is the question
    experiment: str = "levels"
    condition: str | None = None
    group: str | None = None  # of classes: which task of a lifetime


def design(request: Request) -> Design:
    """Fit the paper's protocol to the data, and note what had to be fitted."""
    scale, beyond = scaled(request, SCALES), scaled(request, BEYOND)
    asked = experiments(request, EXPERIMENTS)
    known, others = sides(request, "gutstein", 0, MOST_CLASSES)
    width = len(others)
    largest = max(*SCALES[request.scale].shots, *scale.shots)  # the parts do not depend on asking for fewer
    parts, notes = fit_parts(request, -(-scale.test // width), largest)
    most = available(request, parts)
    notes.append(f"classes: {len(known)} for the source; {width} others for the target, chance {1 / width:.0%}")
    (shots, fewer), (few, _) = (fit_shots(request, one.shots, most) for one in (scale, beyond))
    scale, beyond = replace(scale, shots=shots), replace(beyond, shots=few)
    notes += fewer
    if scale.source_shots > most:
        notes.append(f"source: {most} samples per class, all there are (the protocol: {scale.source_shots})")
    if fixed := request.source_steps:
        notes.append(
            f"source: trained for {fixed:,} steps, fixed beforehand; nothing was chosen by looking at accuracy"
        )
    if request.known and scale.seeds > 1:
        notes.append("source classes: those of --known for every seed; the seeds are not independent class splits")
    notes.append(f"targets: trained for {scale.steps:,} steps, whatever n (the paper does not say how long it trained)")
    if asked != ("levels",):
        told = ", ".join(map(str, beyond.shots))
        notes.append(f"beyond the paper's grid: {told} samples per class, {beyond.seeds} class splits")
    net = request.net or "lenet5"
    made = Design(
        request=request,
        experiments=asked,
        net=net,
        sizes=layer_parameters(net, request.data.images.shape[1:], BITS),
        scale=replace(scale, source_shots=min(scale.source_shots, most)),
        beyond=beyond,
        parts=parts,
        source=_recipe(request, fixed)
        if fixed
        else _recipe(request, scale.source_steps, stop_at=SOURCE_ACCURACY, evaluate_every=100),
        target=_recipe(request, scale.steps, evaluate_every=max(1, scale.steps // 8)),
        notes=tuple(notes),
    )
    return replace(made, chosen=_chosen(made)) if "sources" in asked else made


def _recipe(request: Request, steps: int, **more: Any) -> Recipe:
    """The paper does not say how its nets were trained: plain SGD, one rate for all, lowered near the end.

    Rate and batch were chosen on one class split of glyphs, by whether nets learnt their training samples.
    """
    drops = () if "stop_at" in more else (0.8,)
    return Recipe(steps, batch_size=20, rate=0.05, momentum=0.9, drops=drops, **request.how, **more)


def _chosen(design: Design) -> dict[int, dict[str, tuple[int, ...]]]:
    """Source classes chosen for the target of each class split, from its fewest training samples alone."""
    found = {}
    for seed in range(design.beyond.seeds):
        known, others = design.sides(seed)
        target = design.task(others, min(design.beyond.shots), seed)
        found[seed] = choices(design.request, design.net, known, target, design.scale.source_shots)
    return found
