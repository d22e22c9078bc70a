"""Yosinski, Clune, Bengio, Lipson: "How transferable are features in deep neural networks?".

Classes are split in two halves, A and B, and a net learns each (base). At each cut n the first n layers of a base are
copied, the others are fresh, and the net learns B:

    BnB    from base B, frozen (F^n R)     selffer      base - BnB: what co-adaptation costs
    AnB    from base A, frozen (F^n R)     transfer     BnB - AnB:  what specificity costs besides
    BnB+, AnB+   the same, tuned (T^n R)

Bases are sources and controls at once, and every net trains equally long. A cluster is a class split; its two
directions, A to B and B to A, share their bases, and its trials differ in fresh weights and data order. Of halves that
differ in kind, seeds that draw the same classes are one class split, and every interval is given the two kinds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from layerwise.measure import Measure, Measurement, Row
from layerwise.rows import final, frame, pick
from layerwise.run import Run, key
from layerwise.studies.request import TRIAL_STRIDE, Request, experiments
from layerwise.studies.results import Result, rows_of
from layerwise.studies.yosinski_claims import claims
from layerwise.studies.yosinski_design import Design, fitted, halves, kinds
from layerwise.studies.yosinski_words import words
from layerwise.tasks import Task
from layerwise.treatment import Treatment, preserve, random_filters, selffer, transfer

__all__ = ["TITLE", "cells", "claims", "design", "measurements", "remarks", "runs", "table", "words"]

TITLE = "How transferable are features in deep neural networks? Yosinski, Clune, Bengio, Lipson"
EXPERIMENTS = {
    "transfer": "base, BnB, BnB+, AnB and AnB+ at each cut, on random halves of the classes: the paper's figure 2",
    "dissimilar": "base and AnB on halves that differ in kind, named by --split column:NAME or --known",
    "random-filters": "the first n layers fresh and never trained (X^n R), on all classes, with their own base",
    "preserve": "AnB whose next one or two layers are copied and tuned (F^n T R, F^n TT R): the authors' notebook",
    "matched": "n fresh layers with the mean and deviation of A's, trained (M^n R)",
    "rewound": "n layers as base A began with them, trained (W^n R)",
    "samples": "base on all classes, from fewer samples per class",
}
DATA, RESIZE, GREY = "glyphs", None, False
MEASURES: dict[str, Measure] = {}
NOTHING = 2.0  # times chance: a net that ends below it has learnt nothing
LEARNT = 0.98  # of its training samples: a base below it has not finished learning


@dataclass(frozen=True)
class Cell:
    """One run of the grid, and where it stands in it. What is a source only has no trial."""

    run: Run
    experiment: str
    condition: str
    seed: int  # which class split
    trial: int | None
    n: int


def design(request: Request) -> Design:
    """Fit the paper's protocol to the data, and note what had to be fitted."""
    return fitted(request, experiments(request, EXPERIMENTS))


def cells(design: Design) -> Iterator[Cell]:
    """The whole grid, class split by class split."""
    at_random = [name for name in design.experiments if name in {"transfer", "preserve", "matched", "rewound"}]
    for seed in range(design.scale.seeds):
        a, b = halves(design.request, seed, design.width)
        if at_random:
            yield from _between(design, seed, (a, b), at_random)
        if "dissimilar" in design.experiments:
            yield from _between(design, seed, kinds(design.request, seed, design.width), ["dissimilar"])
        if {"random-filters", "samples"} & set(design.experiments):
            yield from _on_all(design, seed, tuple(sorted(a + b)))


def treatments(experiment: str, depth: int, n: int) -> Iterator[tuple[str, Treatment, bool]]:
    """The conditions of an experiment at a cut: name, treatment, and whether the source is the target's own base."""
    if experiment == "transfer":
        for plus in ("", "+"):
            yield f"BnB{plus}", selffer(depth, n, tuned=bool(plus)), True
            yield f"AnB{plus}", transfer(depth, n, tuned=bool(plus)), False
    elif experiment == "dissimilar":
        yield "AnB", transfer(depth, n), False
    elif experiment == "preserve":
        for k in range(1, min(2, depth - 1 - n) + 1):
            yield f"preserve {k}", preserve(depth, n, k), False
    else:
        letter = {"matched": "M", "rewound": "W"}[experiment]
        yield experiment, Treatment.parse(letter * n + "R" * (depth - n)), False


def _between(design: Design, seed: int, split: Sequence[tuple[int, ...]], experiments: Sequence[str]) -> Iterator[Cell]:
    """Two halves: their bases, and what these experiments make of them, in one direction or both."""
    scale, depth = design.scale, len(design.sizes)
    tasks = [_task(design, seed, classes) for classes in split]
    bases = [Run(design.net, task, transfer(depth, 0), None, (design.base,), seed) for task in tasks]
    directions = [(0, 1), (1, 0)][: scale.directions]
    kind = "dissimilar" if "dissimilar" in experiments else "transfer"
    for half, base in enumerate(bases):
        is_target = any(half == b for _, b in directions)
        yield Cell(base, kind, "base", seed, 0 if is_target else None, 0)
    for a, b in directions:
        for trial in range(scale.trials):
            for experiment in experiments:
                for n in design.cuts(scale.cuts if experiment == kind else scale.few_cuts):
                    for condition, treatment, own in treatments(experiment, depth, n):
                        source, draw = bases[b if own else a], seed + TRIAL_STRIDE * trial
                        run = Run(design.net, tasks[b], treatment, source, (design.target,), draw)
                        yield Cell(run, experiment, condition, seed, trial, n)


def _on_all(design: Design, seed: int, classes: tuple[int, ...]) -> Iterator[Cell]:
    """Both halves as one task: its base, nets whose first n layers are never trained, and bases from fewer samples."""
    depth, task = len(design.sizes), _task(design, seed, classes)
    scratch, has_filters = transfer(depth, 0), "random-filters" in design.experiments
    base = Run(design.net, task, scratch, None, (design.base,), seed)
    yield Cell(base, "random-filters" if has_filters else "samples", "base", seed, 0, 0)
    for trial in range(design.scale.trials if has_filters else 0):
        for n in design.cuts(design.scale.cuts):
            run = replace(
                base, treatment=random_filters(depth, n), recipes=(design.target,), seed=seed + TRIAL_STRIDE * trial
            )
            yield Cell(run, "random-filters", "random filters", seed, trial, n)
    for shots in design.scale.shots if "samples" in design.experiments else ():
        yield Cell(replace(base, task=replace(task, shots=shots)), "samples", "fewer samples", seed, 0, 0)


def _task(design: Design, seed: int, classes: tuple[int, ...]) -> Task:
    return Task(design.request.data.digest, classes, design.shots, "onehot", design.parts, seed)


def runs(design: Design) -> list[Run]:
    """The runs wanted."""
    return [cell.run for cell in cells(design)]


def measurements(design: Design) -> list[Measurement]:
    """Nothing beyond learning curves."""
    return []


def table(design: Design, results: Mapping[str, Result], measured: Mapping[str, Sequence[Row]]) -> pd.DataFrame:
    """The rows: each run's learning curve and cost, chance on each base's task, and the parameters of each layer."""
    rows: list[dict[str, Any]] = []
    for cell in cells(design):
        if result := results.get(key(cell.run)):
            where = {name: getattr(cell, name) for name in ("experiment", "condition", "seed", "trial", "n")}
            where |= {"cluster": cluster(design, cell)}
            rows.extend(rows_of(cell.run, result, **where))
            if cell.condition == "base":
                task = cell.run.task
                chance = {"target_task": task.name, "quantity": "chance", "value": 1 / task.width}
                rows.append({"run_key": result.key, **where, **chance})
    common = {"study": "yosinski", "net": design.net, "data": design.request.data.name}
    sizes = [{"layer": layer, "quantity": "parameters", "value": size} for layer, size in design.sizes.items()]
    return frame({**common, **row} for row in rows + sizes)


def cluster(design: Design, cell: Cell) -> str:
    """What is independent: a class split; halves that differ in kind are one for all seeds that draw the same classes.

    Where both kinds have no more classes than a half takes, no seed draws others.
    """
    if cell.experiment != "dissimilar":
        return f"class split {cell.seed}"
    split = kinds(design.request, cell.seed, design.width)
    return f"class split {' '.join(_task(design, cell.seed, half).name for half in split)}"


def remarks(design: Design, rows: pd.DataFrame) -> list[str]:
    """What the rows show that a reader must know first: nets that learnt too little, norms that never saw an image."""
    chance = pick(rows, quantity="chance").drop_duplicates("target_task").set_index("target_task")["value"]
    ends = pick(final(rows[rows["experiment"] != "samples"]), quantity="accuracy", split="test")
    failed = ends["value"] < NOTHING * ends["target_task"].map(chance)
    found = [
        f"{condition}, n = {n}: {int(some.sum())} of {len(some)} nets end below {NOTHING:g} times chance; they learnt "
        "nothing, and are counted as they are"
        for (condition, n), some in failed.groupby([ends["condition"], ends["n"]])
        if some.any()
    ]
    bases = pick(
        final(rows[rows["trial"].notna()]), experiment="transfer", condition="base", quantity="accuracy", split="train"
    )
    if (learnt := bases["value"].mean()) < LEARNT:
        found.append(
            f"bases are right on {learnt:.0%} of their training samples in the end: they have not finished learning, "
            "so that part of what tuned nets gain (AnB+, BnB+) is that they learn on (see --steps)"
        )
    if "random-filters" in design.experiments and design.net == "small8bn":
        found.append("random filters of small8bn: their batch norms, never trained, stay at mean 0 and deviation 1")
    return found
