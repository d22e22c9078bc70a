"""Ahissar and Hochstein 1997, "Task difficulty and the specificity of perceptual learning", with nets for people.

Grand, Kahn and Reimers (2016, section 4.2) wanted this run. Is there an odd one among bars of one orientation? People
who learnt it from an easy difference in orientation could do it at other orientations and positions too; those who
learnt it from a hard one could not. Reverse hierarchy theory says that learning begins at the top of the hierarchy,
which generalises, and reaches further down only where the top does not suffice.

A net learns an easy or a hard difference, at the orientations of one quarter turn and with the odd bar on one side of
the array (the source). It is tested, untouched, on new images of its own task, at the complementary quarter turn (`new
orientations`) and with the odd bar on the other side (`new positions`), the difference staying as it was. Then its
bottom n layers are kept and the rest learns the new task from few samples, F^n R; n = 0 is learning from scratch. What
a net keeps is its accuracy above chance elsewhere, as a share of that on its own task; what a layer changed is its
distance from its start, relative to the norm of the start.

A cluster is a quarter turn with a side, drawn without replacement, its own two source nets and samples.

Neither paper says how a net should be trained on this. Bars, their jitter, the size of the array (5x5, not 7x7: at 32
pixels bars need the room), rate and steps were chosen on three worlds by one thing alone: that nets learn the hard
difference to 80 or 90 % of new images within the steps of the demo. With a jitter of a tenth of the distance between
bars they did not learn it at all, and at 4 times this rate nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pandas as pd

from layerwise.costs import layer_parameters
from layerwise.data.stimuli import KINDS, SIDES, STARTS, Kind
from layerwise.errors import StudyError
from layerwise.measure import Measure, Measurement, Row
from layerwise.randomness import generator
from layerwise.rows import final, frame, pick
from layerwise.run import Recipe, Run, key
from layerwise.studies.hierarchy_claims import LEARNT, claims, words
from layerwise.studies.hierarchy_measures import drift, untouched
from layerwise.studies.request import TRIAL_STRIDE, Request, available, check_shots, experiments, fit_parts, scaled
from layerwise.studies.results import Result, rows_of
from layerwise.tasks import Parts, Task
from layerwise.treatment import transfer

__all__ = ["TITLE", "cells", "claims", "design", "measurements", "remarks", "runs", "table", "words"]

TITLE = "Is what is learnt from hard tasks specific? Ahissar and Hochstein's odd bar, for nets"
EXPERIMENTS = {
    "specificity": "easy and hard training, and what the nets can then do, untouched, elsewhere",
    "relearning": "the bottom n layers kept and frozen, the rest trained elsewhere on few samples, against scratch",
    "layers": "how far easy and hard training move each layer",
}
DATA, RESIZE, GREY = "stimuli", None, True
ANY_DATA = False
NET = "lenet5relu"
DIFFICULTIES = {"easy": 30, "hard": 16}  # degrees between the odd bar and the others
PLACES = ("trained", "new orientations", "new positions")
MEASURES: dict[str, Measure] = {"untouched": untouched, "drift": drift}
NEAR_CHANCE = 0.55


@dataclass(frozen=True)
class Scale:
    """How large a grid is run."""

    seeds: int
    trials: int
    shots: tuple[int, ...]  # arrays with an odd bar to relearn from, and as many without
    source_shots: int
    test: int  # arrays of a class
    steps: int
    source_steps: int


SCALES = {
    "demo": Scale(5, 1, (100,), source_shots=2_500, test=400, steps=300, source_steps=2_000),
    "paper": Scale(8, 3, (20, 100, 500), source_shots=2_500, test=400, steps=1_000, source_steps=10_000),
}


@dataclass(frozen=True)
class Design:
    """The request fitted to the data: what exactly is run."""

    request: Request
    asked: tuple[str, ...]  # experiments
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
    seed: int
    trial: int | None
    n: int
    difficulty: str
    place: str


def design(request: Request) -> Design:
    """Fit the protocol to how many stimuli there are."""
    scale: Scale = scaled(request, SCALES)
    data = request.data
    if data.class_names != tuple(kind.name for kind in KINDS):
        raise StudyError(f"data '{data.name}' are no arrays of bars; pass --data stimuli or stimuli:PER_CLASS:SEED")
    for option in ("known", "classes", "split"):
        if (value := getattr(request, option)) is not None:
            raise StudyError(f"--{option} {value}: the tasks of this study are its own; leave it out")
    worlds = len(STARTS) * len(SIDES)
    if scale.seeds > worlds:
        raise StudyError(f"--seeds {scale.seeds}: there are {worlds} pairs of a quarter turn and a side to learn in")
    parts, notes = fit_parts(request, scale.test, max(scale.shots))
    most = available(request, parts)
    check_shots(scale.shots, most)
    if scale.source_shots > most:
        notes.append(f"sources: {most} samples per class, all there are (the protocol: {scale.source_shots:,})")
    easy, hard = DIFFICULTIES.values()
    notes.append(f"the odd bar differs by {easy} degrees (easy) or {hard} (hard); chance is 50%")
    source_steps = request.source_steps or scale.source_steps
    net = request.net or NET
    return Design(
        request=request,
        asked=experiments(request, EXPERIMENTS),
        net=net,
        sizes=layer_parameters(net, data.images.shape[1:], 2),
        scale=replace(scale, source_shots=min(scale.source_shots, most)),
        parts=parts,
        source=_recipe(request, source_steps, evaluate_every=max(1, source_steps // 10)),
        target=_recipe(request, scale.steps),
        notes=tuple(notes),
    )


def _recipe(request: Request, steps: int, **more: Any) -> Recipe:
    return Recipe(steps, batch_size=50, rate=1e-3, optimiser="adam", drops=(0.8,), **request.how, **more)


def cells(design: Design) -> Iterator[Cell]:
    """The whole grid: per world an easy and a hard source, and for each place elsewhere its targets."""
    depth, scale = len(design.sizes), design.scale
    for seed in range(scale.seeds):
        for difficulty, odd in _learnt(design, seed).items():
            task = _task(design, odd, scale.source_shots, seed)
            source = Run(design.net, task, transfer(depth, 0), None, (design.source,), seed)
            yield Cell(source, seed, None, 0, difficulty, "trained")
            if "relearning" not in design.asked:
                continue
            for trial, place, shots in product(range(scale.trials), PLACES[1:], scale.shots):
                draw = seed + TRIAL_STRIDE * trial
                task = _task(design, moved(odd, place), shots, draw)
                for n in range(depth):
                    origin = source if n else None
                    # draw=1: the control from scratch shares its fresh weights and data order with the transfers
                    run = Run(design.net, task, transfer(depth, n), origin, (design.target,), draw, draw=1)
                    yield Cell(run, seed, trial, n, difficulty, place)


def _learnt(design: Design, seed: int) -> dict[str, Kind]:
    """The odd class that each source of a seed learns; no two seeds have one quarter turn and side."""
    worlds = list(product(STARTS, SIDES))
    start, side = worlds[generator("worlds", design.request.data.digest).permutation(len(worlds))[seed]]
    return {difficulty: Kind(start, difference, side) for difficulty, difference in DIFFICULTIES.items()}


def moved(odd: Kind, place: str) -> Kind:
    """The odd class at one of PLACES that differs from this one in nothing else."""
    if place == "new orientations":
        return replace(odd, start=(odd.start + 90) % 180)
    return replace(odd, side=next(side for side in SIDES if side != odd.side)) if place == "new positions" else odd


def _task(design: Design, odd: Kind, shots: int, draw: int) -> Task:
    """The odd class against the even class of its orientations."""
    return Task(design.request.data.digest, (odd.even.label, odd.label), shots, "onehot", design.parts, draw)


def runs(design: Design) -> list[Run]:
    """The runs wanted."""
    return [cell.run for cell in cells(design)]


def measurements(design: Design) -> list[Measurement]:
    """Each source net on the tasks of all places, and how far its layers went."""
    return [one for cell in cells(design) if cell.trial is None for one, _ in _of_source(design, cell)]


def _of_source(design: Design, cell: Cell) -> Iterator[tuple[Measurement, dict[str, Any]]]:
    """What is measured on a source net, and the columns that say so."""
    if "specificity" in design.asked:
        for place in PLACES:
            task = _task(design, moved(_learnt(design, cell.seed)[cell.difficulty], place), 1, 0)
            options = tuple(zip(("even", "odd"), task.classes, strict=True))
            about = {"experiment": "specificity", "group": place, "target_task": task.name}
            yield Measurement("hierarchy", "untouched", (cell.run,), options), about
    if "layers" in design.asked:
        yield Measurement("hierarchy", "drift", (cell.run,)), {"experiment": "layers", "group": "trained"}


def table(design: Design, results: Mapping[str, Result], measured: Mapping[str, Sequence[Row]]) -> pd.DataFrame:
    """The rows: learning curves and costs, what was measured on the source nets, and the parameters of each layer."""
    rows: list[dict[str, Any]] = []
    for cell in cells(design):
        about = {"condition": cell.difficulty, "n": cell.n, "trial": cell.trial, "seed": cell.seed}
        about |= {"cluster": f"world {cell.seed}"}
        if result := results.get(key(cell.run)):
            experiment = "specificity" if cell.trial is None else "relearning"
            rows.extend(rows_of(cell.run, result, experiment=experiment, group=cell.place, **about))
        if cell.trial is None:
            told = {**about, "run_key": key(cell.run), "target_task": cell.run.task.name}
            for one, where in _of_source(design, cell):
                rows.extend({**told, **where, **row} for row in measured.get(one.key, ()))
    common = {"study": "hierarchy", "net": design.net, "data": design.request.data.name}
    sizes = [{"layer": layer, "quantity": "parameters", "value": size} for layer, size in design.sizes.items()]
    return frame({**common, **row} for row in rows + sizes)


def remarks(design: Design, rows: pd.DataFrame) -> list[str]:
    """Nets that learnt nothing, and places at which no net does better than chance: of both, claims can say little."""
    own = pick(final(rows[rows["trial"].isna()]), quantity="accuracy", split="test", group="trained")
    found = [
        f"{row.condition} source of seed {row.seed}: right on {row.value:.1%} of new images of its own task, under "
        f"{LEARNT:.0%}: it learnt too little for what it keeps elsewhere to mean anything"
        for row in own[own["value"] < LEARNT].itertuples()
    ]
    for place in PLACES[1:]:
        there = pick(rows, quantity="untouched_accuracy", group=place).groupby("condition")["value"].mean()
        if len(there) and there.max() < NEAR_CHANCE:
            told = " and ".join(f"{value:.1%} after {one} training" for one, value in there.items())
            found.append(f"at {place} untouched nets are right on {told}: near chance, so there is little to compare")
    return found
