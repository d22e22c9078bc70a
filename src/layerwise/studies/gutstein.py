"""Gutstein, Fuentes, Freudenthal: "Knowledge transfer in deep convolutional neural nets".

A LeNet-5 learns 20 classes of characters (the source). Its bottom n levels are copied and frozen, F^n R, and the rest
learns 20 other classes from 1 to 40 samples each; n = 0 is learning from scratch. How does accuracy depend on n?

Every class has a random 20-bit target, and the nearest code is the predicted class. A cluster is a class split with its
own source; its trials differ in the samples, the codes and the fresh weights, which all n share.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from layerwise.costs import layer_parameters
from layerwise.errors import StudyError
from layerwise.measure import Measure, Measurement, Row
from layerwise.rows import final, frame, pick
from layerwise.run import Recipe, Run, key
from layerwise.studies.gutstein_claims import claims, words
from layerwise.studies.request import Request, available, experiments, fit_parts, scaled, sides
from layerwise.studies.results import Result, rows_of
from layerwise.tasks import Parts, Task
from layerwise.treatment import Treatment, transfer

__all__ = ["TITLE", "cells", "claims", "design", "measurements", "remarks", "runs", "table", "words"]

TITLE = "Which levels of a LeNet-5 transfer? Gutstein, Fuentes, Freudenthal: knowledge transfer in deep nets"
EXPERIMENTS = {"levels": "n = 0 to 5 levels kept, from 1 to 40 samples per class: the paper's grid"}
DATA, RESIZE, GREY = "glyphs", None, False
MEASURES: dict[str, Measure] = {}
BITS = 20  # of a class's target, and outputs of the net
MOST_CLASSES = 20  # on each side
LEARNT = 0.98  # of its training samples: a net from scratch below it has not finished learning
TRIAL_STRIDE = 1_000  # between the seeds of a source's trials, so that asking for more of them renames none
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


@dataclass(frozen=True)
class Design:
    """The request fitted to the data: what exactly is run."""

    request: Request
    net: str
    sizes: dict[str, int]  # parameters of each layer
    scale: Scale
    parts: Parts
    source: Recipe
    target: Recipe
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One run of the grid, and where it stands in it. A source net has no trial."""

    run: Run
    seed: int  # which class split
    trial: int | None
    n: int


def design(request: Request) -> Design:
    """Fit the paper's protocol to the data, and note what had to be fitted."""
    scale: Scale = scaled(request, SCALES)
    experiments(request, EXPERIMENTS)
    known, others = sides(request, "gutstein", 0, MOST_CLASSES)
    width = len(others)
    largest = max(*SCALES[request.scale].shots, *scale.shots)  # the parts do not depend on asking for fewer
    parts, notes = fit_parts(request, -(-scale.test // width), largest)
    most = available(request, parts)
    notes.append(f"classes: {len(known)} for the source; {width} others for the target, chance {1 / width:.0%}")
    if max(scale.shots) > most and request.shots is None:
        scale = replace(scale, shots=tuple(k for k in scale.shots if k <= most) or (most,))
        notes.append(f"samples per class: up to {max(scale.shots)}; the smallest class has {most} to train on")
    if max(scale.shots) > most:
        raise StudyError(
            f"--shots {max(scale.shots)}: the smallest class has {most} training images; ask for at most that"
        )
    fixed = request.source_steps or (scale.source_steps if scale.source_shots > most else None)
    if scale.source_shots > most:
        notes.append(f"source: {most} samples per class, all there are (the protocol: {scale.source_shots})")
    if fixed:
        notes.append(
            f"source: trained for {fixed:,} steps, fixed beforehand; nothing was chosen by looking at accuracy"
        )
    if request.known and scale.seeds > 1:
        notes.append("source classes: those of --known for every seed; the seeds are not independent class splits")
    notes.append(f"targets: trained for {scale.steps:,} steps, whatever n (the paper does not say how long it trained)")
    net = request.net or "lenet5"
    return Design(
        request=request,
        net=net,
        sizes=layer_parameters(net, request.data.images.shape[1:], BITS),
        scale=replace(scale, source_shots=min(scale.source_shots, most)),
        parts=parts,
        source=_recipe(request, fixed)
        if fixed
        else _recipe(request, scale.source_steps, stop_at=SOURCE_ACCURACY, evaluate_every=100),
        target=_recipe(request, scale.steps, evaluate_every=max(1, scale.steps // 8)),
        notes=tuple(notes),
    )


def _recipe(request: Request, steps: int, **more: Any) -> Recipe:
    """The paper does not say how its nets were trained: plain SGD, one rate for all, lowered near the end.

    Rate and batch were chosen on one class split of glyphs, by whether nets learnt their training samples.
    """
    how: dict[str, Any] = {"precision": request.precision, "channels_last": request.channels_last}
    drops = () if "stop_at" in more else (0.8,)
    return Recipe(steps, batch_size=20, rate=0.05, momentum=0.9, drops=drops, **how, **more)


def cells(design: Design) -> Iterator[Cell]:
    """The whole grid: per class split a source, and its targets for every trial, number of samples and n."""
    scale, data = design.scale, design.request.data.digest
    depth, encoding = len(design.sizes), f"bits:{BITS}"
    for seed in range(scale.seeds):
        known, unknown = sides(design.request, "gutstein", seed, MOST_CLASSES)
        learnt = Task(data, known, scale.source_shots, encoding, design.parts, seed)
        source = Run(design.net, learnt, Treatment.parse("R*").resolve(depth), None, (design.source,), seed)
        yield Cell(source, seed, None, 0)
        for trial in range(scale.trials):
            draw = seed + TRIAL_STRIDE * trial
            for shots in scale.shots:
                task = Task(data, unknown, shots, encoding, design.parts, draw)
                for n in range(depth):
                    origin = source if n else None
                    # draw=1: the control from scratch shares its fresh weights and data order with the transfers
                    run = Run(design.net, task, transfer(depth, n), origin, (design.target,), draw, draw=1)
                    yield Cell(run, seed, trial, n)


def runs(design: Design) -> list[Run]:
    """The runs wanted."""
    return [cell.run for cell in cells(design)]


def measurements(design: Design) -> list[Measurement]:
    """Nothing beyond learning curves."""
    return []


def table(design: Design, results: Mapping[str, Result], measured: Mapping[str, Sequence[Row]]) -> pd.DataFrame:
    """The rows: each run's learning curve and cost, and the parameters of each layer (the paper's table 1)."""
    rows: list[dict[str, Any]] = []
    for cell in cells(design):
        if result := results.get(key(cell.run)):
            about = {"experiment": "levels", "n": cell.n, "trial": cell.trial, "seed": cell.seed}
            rows.extend(rows_of(cell.run, result, **about))
    common = {"study": "gutstein", "net": design.net, "data": design.request.data.name}
    sizes = [{"layer": layer, "quantity": "parameters", "value": size} for layer, size in design.sizes.items()]
    return frame({**common, **row} for row in rows + sizes)


def remarks(design: Design, rows: pd.DataFrame) -> list[str]:
    """What the rows show that a reader must know: nets that did not learn what they should have."""
    sources = final(pick(rows[rows["trial"].isna()], quantity="accuracy", split="train"))
    wanted = design.source.stop_at or 0.0
    short = sources[sources["value"] < wanted]
    found = [
        f"source of seed {row.seed}: right on {row.value:.1%} of its training samples in the end, not {wanted:.0%}"
        for row in short.itertuples()
    ]
    scratch = final(pick(rows[rows["trial"].notna()], quantity="accuracy", split="train", n=0))
    for shots, learnt in scratch.groupby("shots")["value"].mean().items():
        if learnt < LEARNT:
            found.append(
                f"from scratch with {shots} samples per class: right on {learnt:.0%} of training samples in the end; "
                "these nets have not finished learning, so that what transfer gains is partly speed (see --steps)"
            )
    return found
